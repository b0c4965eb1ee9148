#!/bin/busybox sh
# The first process of the guest: make it a Linux, run /task, say how it ended, switch off.
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/modules/$module.ko" || echo "cannot insert $module"
done </modules/order
# The port appears a moment after its driver.
until [ -e /dev/vport0p1 ]; do sleep 0.1; done
busybox sh /task >/dev/vport0p1
echo "the task ended with $?"
poweroff -f
