#!/bin/busybox sh
# The first process of the guest: insert the drivers, mount the root partition, go on there.
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module.ko" 2>/dev/null
done </modules/order
init=/sbin/console
mode=ro
for word in $(cat /proc/cmdline); do
    case $word in
    panics=1) echo c >/proc/sysrq-trigger ;;
    init=/sbin/services) init=/sbin/services mode=rw ;;
    esac
done
# The SD card of a Pi, or the SCSI disk of the other machine.
until mount -t ext4 -o "$mode" /dev/mmcblk0p4 /new 2>/dev/null || mount -t ext4 -o "$mode" /dev/sda4 /new 2>/dev/null; do
    usleep 50000
done
umount /proc /sys
mount --move /dev /new/dev
exec switch_root /new "$init"
