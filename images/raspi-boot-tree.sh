#!/usr/bin/env bash
# Assemble a real boot tree for Raspberry Pi 4 and 5: images/raspi-boot-tree.sh OUTDIR
#
# From Debian trixie: raspi-firmware (start*.elf, fixup*.dat, overlays) and linux-image-arm64 (kernel, device trees).
# mmdebstrap resolves and downloads them for arm64 without touching this system's apt, and only unpacks them: no
# maintainer script runs, so it needs neither root, nor binfmt, nor QEMU, and `chrootless` is safe.
#
# An OUTDIR that is there already is kept: delete it to fetch anew.  It is renamed into place when it is complete.
#
# There is no initramfs, because Debian builds it on the device.  The kernel's drivers for the card and for ext4 are
# modules, so on a board this tree starts the kernel, finds no root file system, panics, and reboots after 10 s
# (panic=10): for a real system, add an initramfs and a root partition labelled `root`.
set -euo pipefail

say() { echo "boot tree: $*"; }
die() { echo "boot tree: $*" >&2; exit 1; }

[[ $# -eq 1 ]] || { echo "usage: images/raspi-boot-tree.sh OUTDIR" >&2; exit 2; }
out=${1%/}
if [[ -e $out ]]; then
    say "$out is there"
    exit 0
fi
command -v mmdebstrap >/dev/null || die "cannot fetch packages: mmdebstrap is not installed (Debian package mmdebstrap)"

mkdir -p "$(dirname "$out")"
# Beside OUTDIR, so that the rename at the end is one step.
work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/packages" "$work/tree"

say "fetching raspi-firmware and linux-image-arm64 from Debian trixie (120 MB, once)"
# A tar stream rather than a folder: of 300 MB, 60 MB are wanted, and they get the caller as their owner.
# A mmdebstrap that fails sends SIGHUP to its whole process group: -m gives it one of its own, without this script.
set -m
if ! mmdebstrap --mode=chrootless --skip=check/qemu,check/chrootless --variant=extract --format=tar \
    --architectures=arm64 --components='main non-free-firmware' --include=raspi-firmware,linux-image-arm64 \
    trixie - 2>"$work/log" |
    tar --extract --directory "$work/packages" --no-same-owner --wildcards \
        './usr/lib/raspi-firmware/*' './usr/lib/linux-image-*/broadcom/bcm*' './boot/vmlinuz-*' 2>>"$work/log"; then
    grep -E '^E:|^Err:' "$work/log" >&2 || tail -n 20 "$work/log" >&2
    die "cannot fetch the packages: see the messages above; needed are the network and Debian's archive keys"
fi
set +m

say "assembling the tree"
cp -r "$work/packages/usr/lib/raspi-firmware/." "$work/tree"
# The firmware picks one by the board's model.
cp "$work"/packages/usr/lib/linux-image-*/broadcom/bcm*.dtb "$work/tree"
# Debian's arm64 vmlinuz is a plain Image with 4 KiB pages: what the firmware loads, on a Pi 5 too.
kernel=$(basename "$work"/packages/boot/vmlinuz-*)
cp "$work/packages/boot/$kernel" "$work/tree/kernel8.img"
[[ $(tail -c +57 "$work/tree/kernel8.img" | head -c 4) == ARMd ]] || die "cannot use $kernel: it is not an arm64 Image"

# For all keys: documentation/asciidoc/computers/config_txt/.
cat >"$work/tree/config.txt" <<'END'
# Made by abboot's images/raspi-boot-tree.sh
arm_64bit=1
enable_uart=1
# The device trees have the mainline kernel's names (bcm2837-* for a Pi 3).
upstream_kernel=1
# Without it a Pi 5 looks for kernel_2712.img first.
kernel=kernel8.img
# A kernel that hangs before it takes over the watchdog is reset after so many seconds
# (firmware of mid 2025 and later; an older one ignores the line).
kernel_watchdog_timeout=120
END
# panic=10: a kernel that panics reboots, so that a trial falls back by itself.
echo 'console=tty0 console=ttyS1,115200 root=LABEL=root rootwait rw panic=10 net.ifnames=0' >"$work/tree/cmdline.txt"

# Whatever was downloaded, the tree must be one that both boards load, with names that a FAT can hold.
for file in start4.elf fixup4.dat kernel8.img config.txt cmdline.txt bcm2711-rpi-4-b.dtb bcm2712-rpi-5-b.dtb overlays; do
    [[ -e $work/tree/$file ]] || die "cannot assemble the tree: the packages hold no $file"
done
odd=$(cd "$work/tree" && find . -name '*[^A-Za-z0-9._-]*' -o ! -type f ! -type d)
[[ -z $odd ]] || die "cannot assemble the tree: not for a FAT: $odd"

chmod -R u=rwX,go=rX "$work/tree"
mv "$work/tree" "$out"
say "$out: $(find "$out" -type f | wc -l) files, $(du -sm --apparent-size "$out" | cut -f1) MB, kernel ${kernel#vmlinuz-}"
