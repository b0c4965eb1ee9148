"""The edges to a Linux kernel: one small module per interface, each behind a Protocol of :mod:`abboot.core.protocols`.

Every edge takes ``sysroot``: the folder under which the kernel's interfaces (``proc``, ``sys``, ``run``, ``dev``) are
read.  With one other than ``/`` nothing here issues an ioctl, calls reboot(2) or runs systemctl: such a request is
recorded under the sysroot (:mod:`abboot.linux.sysroot`).
"""
