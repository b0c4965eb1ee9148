#!/usr/bin/env bash
# Install the Debian packages that are missing for some purposes: tools/packages.sh python|test|demo|tree|bench|vfat|e2e...
#
# What is there already is left alone, and then neither apt nor the network is touched.  Without root and without a
# password-less sudo nothing is installed: the list is printed, and the exit status is 1.
set -euo pipefail
cd "$(dirname "$0")/.."
# Debian keeps mkfs.vfat and sfdisk out of an ordinary user's PATH.
PATH=$PATH:/usr/sbin:/sbin

# purposes | Debian package | what it is for | how to see that it is there
table='
python          | python3       | running abboot                             | tools/find-python.sh
python          | python3-venv  | making the virtual environment .venv       | tools/find-python.sh
python          | python3-dev   | building pyparted                          | tools/find-python.sh
python          | gcc           | building pyparted                          | command -v gcc
python          | libc6-dev     | building pyparted                          | test -e /usr/include/stdlib.h
python          | pkgconf       | building pyparted                          | command -v pkg-config
python          | libparted-dev | building pyparted                          | pkg-config --exists libparted
test bench vfat crashlab e2e | dosfstools    | mkfs.vfat and fsck.vfat judge the volumes  | command -v mkfs.vfat
test bench demo vfat crashlab e2e | mtools   | an independent reader and writer of FAT    | command -v mcopy
test bench vfat crashlab | fdisk         | sfdisk judges the partition tables         | command -v sfdisk
test            | gdisk         | sgdisk judges the GPT                      | command -v sgdisk
bench           | rauc          | one of those that abboot is measured against | command -v rauc
bench           | squashfs-tools | making the bundle that RAUC installs        | command -v mksquashfs
bench           | dbus-daemon   | the bus on which the RAUC service answers | command -v dbus-daemon
bench           | openssl       | signing that bundle                        | command -v openssl
tree demo vfat crashlab debtest e2e | mmdebstrap    | fetching firmware and kernels for the Pi   | command -v mmdebstrap
tree demo vfat crashlab debtest e2e | ca-certificates | fetching firmware and kernels for the Pi | test -e /etc/ssl/certs/ca-certificates.crt
deb             | lintian       | judging the Debian package                 | command -v lintian
vfat crashlab e2e | qemu-system-arm | the machine that a real kernel runs in     | command -v qemu-system-aarch64
e2e             | device-tree-compiler | fdtput writes what the firmware tells the kernel | command -v fdtput
e2e             | e2fsprogs     | making the root file system of the guest   | command -v mke2fs
'

[[ $# -gt 0 ]] || { echo "usage: tools/packages.sh python|test|demo|tree|bench|vfat|e2e..." >&2; exit 2; }
missing=()
reasons=()
while IFS='|' read -r purposes package what check; do
    read -r package <<<"$package"
    wanted=no
    for purpose in "$@"; do
        [[ " $purposes " != *" $purpose "* ]] || wanted=yes
    done
    [[ $wanted == yes ]] || continue
    eval "$check" >/dev/null 2>&1 && continue
    missing+=("$package")
    reasons+=("$package: $(echo $what)")
done <<<"$table"

[[ ${#missing[@]} -gt 0 ]] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "packages: cannot install on this system: it has no apt-get. What is missing, by its name in Debian:" >&2
    printf '  %s\n' "${reasons[@]}" >&2
    exit 1
fi

if [[ $(id -u) -eq 0 ]]; then
    as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "packages: these Debian packages are missing, and installing them needs root:" >&2
    printf '  %s\n' "${reasons[@]}" >&2
    echo "packages: install them, then run the same command again:" >&2
    echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

echo "packages: installing what is missing:"
printf '  %s\n' "${reasons[@]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
# An unreachable third-party source makes `update` fail although the packages can be had: `install` decides.
"${apt[@]}" update >"$log" 2>&1 || true
if ! "${apt[@]}" install --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
    cat "$log" >&2
    echo "packages: apt-get could not install: ${missing[*]}" >&2
    exit 1
fi
