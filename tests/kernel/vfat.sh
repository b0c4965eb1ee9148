# In the guest: what the kernel's vfat driver makes of every partition of every card, and then a few changes through it.
# The host decides whether it is right: here facts are only printed, each after a line "@@ CARD PARTITION FACT".
set -u

say() { echo "@@ $card $part $*"; }

# The kernel's own words since the last call, without those about the emulated machine.
complaints() { say "$1"; dmesg -c | grep -v 'random: ' || true; }

# What these names, one a line, are to the kernel: "SIZE NAME".
sizes_of() { tr '\n' '\0' <"$1" | xargs -0 -r stat -c '%s %n' 2>&1; }

free() { stat -f -c '%S %b %f' /mnt; }

look_at_selector() {
    say autoboot; cat /mnt/autoboot.txt
    say autoboot-in-capitals; cat /mnt/AUTOBOOT.TXT
    say names; (cd /mnt && find . -type f -exec stat -c '%s %n' {} +)
}

look_at_slot() {
    say names; (cd /mnt && find . -type f -exec stat -c '%s %n' {} +)
    say folders; (cd /mnt && find . -type d)
    say sums; (cd /mnt && sha256sum -c abboot/manifest.sha256 2>&1)
    say own-sums; (cd /mnt && sha256sum abboot/*)
    # Without case, and by their 8.3 aliases.
    for list in other-case aliases; do
        say $list; (cd /mnt && sizes_of "/lists/$card/$part/$list")
    done
}

change_selector() {
    # Written in place, as abboot switches a mounted selector (G3).
    dd if="/lists/$card/$part/autoboot" of=/mnt/autoboot.txt conv=notrunc,fsync 2>/dev/null || echo failed
}

change_slot() {
    case $part in
    3) # changes that stay
        printf 'the kernel was here\n' >>/mnt/config.txt &&
        mkdir "/mnt/A folder that the Kernel made" &&
        dd if=/dev/zero of="/mnt/A folder that the Kernel made/a file that the kernel wrote.bin" bs=70000 count=1 \
            2>/dev/null &&
        rm /mnt/fixup4.dat &&
        mv /mnt/start4.elf /mnt/START4.tmp && mv /mnt/START4.tmp /mnt/Start4.elf || echo failed
        ;;
    2) # changes that are undone
        for number in 1 2 3 4 5 6 7 8 9 10; do
            dd if=/dev/zero of="/mnt/folder/a temporary file number $number.bin" bs=9000 count=1 2>/dev/null || echo failed
        done
        sync
        rm /mnt/folder/a\ temporary* || echo failed
        ;;
    esac
}

for block in /sys/block/vd?; do
    card=$(cat "$block/serial")
    for part in 1 2 3; do
        node=/dev/${block##*/}$part
        dmesg -c >/dev/null
        say mount
        if ! mount -t vfat -o ro "$node" /mnt; then
            complaints complaints
            continue
        fi
        grep ' /mnt ' /proc/mounts
        case $part in
        1) look_at_selector ;;
        *) look_at_slot ;;
        esac
        say free-counted; free
        umount /mnt
        # With this option FAT32's driver believes FSInfo, instead of counting.
        say free-believed; mount -t vfat -o ro,usefree "$node" /mnt && free && umount /mnt
        complaints complaints

        say change
        mount -t vfat "$node" /mnt || echo failed
        case $part in
        1) change_selector ;;
        *) change_slot ;;
        esac
        umount /mnt || echo failed
        complaints complaints-about-changes
    done
done
