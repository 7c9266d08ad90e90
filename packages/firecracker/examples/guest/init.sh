#!/bin/busybox sh
# PID 1 of the examples' guest: drivers, an echo server on vsock port 52, and commands from the serial console.
export PATH=/bin
busybox mkdir -p /proc /sys /tmp
busybox mount -t proc proc /proc
# Finds itself by /proc.
busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
[ -f /etc/tinderbox/modules ] && while read -r module; do insmod "$module" 2>/dev/null; done </etc/tinderbox/modules
stty -echo -onlcr
vsock-echo 52 >/dev/null 2>&1 &
echo "@ready"
while read -r line; do
  eval "$line" 2>&1
  echo "@end $?"
done
reboot -f
