// The judge of abboot.forklift: Forklift's own types and its own YAML library, behind one line of JSON each way.
//
// {"text": BASE64} is read as Forklift reads a stage store; {"store": {...}} is written as it writes one.  The answer
// holds the text that Forklift would write, and what is in it, or the error. 
// effects are those of internal/app/forklift/staging.go of Forklift 0.8.0.
//
// Build: apt-get install golang-go golang-gopkg-yaml.v3-dev (3.0.1, as in Forklift's go.mod), then
// GO111MODULE=off GOPATH=/usr/share/gocode go build -o judge main.go
package main

import (
	"bufio"
	"encoding/json"
	"os"

	"gopkg.in/yaml.v3"
)

type StageStoreManifest struct {
	ForkliftVersion string     `yaml:"forklift-version"`
	Stages          StagesSpec `yaml:"staged"`
}

type StagesSpec struct {
	Next       int            `yaml:"next,omitempty"`
	NextFailed bool           `yaml:"next-failed,omitempty"`
	History    []int          `yaml:"history,omitempty"`
	Names      map[string]int `yaml:"names,omitempty"`
}

type name struct {
	Name  []byte // JSON has no bytes: base64
	Index int
}

type values struct {
	Version    []byte
	Next       int
	NextFailed bool
	History    []int
	Names      []name
}

type question struct {
	Text  *[]byte
	Store *values
}

type answer struct {
	Text  []byte
	Store *values
	Error string
}

func judge(q question) (a answer) {
	manifest := StageStoreManifest{}
	if q.Text != nil {
		if err := yaml.Unmarshal(*q.Text, &manifest); err != nil {
			return answer{Error: err.Error()}
		}
	} else {
		manifest.ForkliftVersion = string(q.Store.Version)
		manifest.Stages = StagesSpec{
			Next: q.Store.Next, NextFailed: q.Store.NextFailed, History: q.Store.History, Names: make(map[string]int),
		}
		for _, n := range q.Store.Names {
			manifest.Stages.Names[string(n.Name)] = n.Index
		}
	}
	found := values{
		Version: []byte(manifest.ForkliftVersion), Next: manifest.Stages.Next,
		NextFailed: manifest.Stages.NextFailed, History: manifest.Stages.History,
	}
	for n, index := range manifest.Stages.Names {
		found.Names = append(found.Names, name{[]byte(n), index})
	}
	text, err := yaml.Marshal(manifest)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Text: text, Store: &found}
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<24)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		q := question{}
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			panic(err)
		}
		if err := out.Encode(judge(q)); err != nil {
			panic(err)
		}
	}
}
