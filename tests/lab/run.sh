#!/bin/sh
# PID 2 of L1, below catatonit: brings the machine up, runs the job within its time, hands over what it left.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /lab/results
mount -t devpts devpts /dev/pts
for place in /dev/shm /run /tmp; do mount -t tmpfs tmpfs $place; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname lab
ip link set lo up
modprobe -a virtio_net kvm-amd vhost_vsock vhost_net tun fuse overlay loop erofs veth vfio-pci br_netfilter
ip link set eth0 name card0 # tests make links of that name, and move them from here
chmod 0666 /dev/kvm # as udev does
. /lab/settings
cd /lab/tree || exit
python3 tests/lab/hold.py &
{ timeout -k 10 "$LIMIT" sh /lab/job; echo $? >/lab/results/status; } 2>&1 | tee /lab/results/log
cp /lab/log/* /lab/results/ 2>/dev/null
tar -c -C /lab/results -f /dev/vdc .
sync
busybox poweroff -f
