#!/bin/bash
# A made-up Slurm site: a login node that also runs slurmctld, and two compute nodes, node1 and node2.
#     unshare --net --mount --uts --ipc --pid --fork --kill-child slurm_site.sh FOLDER CHECKOUT
# Each machine has its own processes, network, host name, /dev, /tmp and /run. FOLDER and CHECKOUT are shared by all.
# Everything ends with this process, and nothing listens outside the site's own bridge.
set -eu
shared=$1 checkout=$2 machine=${3:-login} here=$(realpath "$0")

private_folders() { # the machine's own /dev, /tmp and /run, with the shared folders still in them
    mount --make-rprivate /
    mount -t proc proc /proc
    mount -t tmpfs -o mode=755 tmpfs /mnt
    mkdir /mnt/dev /mnt/shared /mnt/checkout
    mount --bind "$shared" /mnt/shared
    mount --bind "$checkout" /mnt/checkout
    mount -t tmpfs -o mode=755 tmpfs /mnt/dev
    for device in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
        mknod -m 666 "/mnt/dev/${device% *}" c 1 "${device#* }"
    done
    mknod -m 666 /mnt/dev/tty c 5 0
    mknod -m 666 /mnt/dev/gpu0 c 1 3 # made-up GPUs
    mknod -m 666 /mnt/dev/gpu1 c 1 3
    mkdir /mnt/dev/pts /mnt/dev/shm
    mount -t devpts -o newinstance,ptmxmode=666 devpts /mnt/dev/pts
    ln -s pts/ptmx /mnt/dev/ptmx
    ln -s /proc/self/fd /mnt/dev/fd
    mount -t tmpfs -o mode=1777 tmpfs /mnt/dev/shm
    mount --move /mnt/dev /dev
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p "$shared" "$checkout" /run/munge /run/slurm
    mount --move /mnt/shared "$shared"
    mount --move /mnt/checkout "$checkout"
    hostname "$machine"
    # As on Debian, a machine's own name is a loopback address.
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n10.77.0.1 login\n10.77.0.11 node1\n10.77.0.12 node2\n' "$machine" \
        > /run/hosts
    mount --bind /run/hosts /etc/hosts
    ip link set lo up
    export SLURM_CONF=$shared/etc/slurm.conf
    munged --force --key-file "$shared/etc/munge.key" --socket /run/munge/munge.socket.2 --pid-file /run/munge/pid \
        --log-file "$shared/log/munged.$machine" --seed-file /run/munge/seed
}

if [ "$machine" != login ]; then
    private_folders
    slurmd -D -N "$machine" & # not exec: this shell is the machine's first process and collects ended ones
    wait
    exit
fi

mkdir -p "$shared/etc" "$shared/log" "$shared/state"
head -c 128 /dev/urandom > "$shared/etc/munge.key"
chmod 600 "$shared/etc/munge.key"
cat > "$shared/etc/slurm.conf" <<END
ClusterName=madeup
SlurmctldHost=login(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=/run/munge/munge.socket.2
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
MinJobAge=3600
SchedulerParameters=sched_interval=2
StateSaveLocation=$shared/state
SlurmdSpoolDir=/run/slurm
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=$shared/log/slurmctld
SlurmdLogFile=$shared/log/slurmd.%n
NodeName=node1 NodeAddr=10.77.0.11 CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=node2 NodeAddr=10.77.0.12 CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=60 State=UP
END
echo 'Name=gpu File=/dev/gpu[0-1]' > "$shared/etc/gres.conf"
echo 'CgroupPlugin=cgroup/v1' > "$shared/etc/cgroup.conf"

private_folders
ip link add name bridge type bridge
ip address add 10.77.0.1/24 dev bridge
ip link set bridge up
for number in 1 2; do
    ip netns add "node$number"
    ip link add "veth$number" type veth peer name eth0 netns "node$number"
    ip link set "veth$number" master bridge up
    ip -n "node$number" address add "10.77.0.1$number/24" dev eth0
    ip -n "node$number" link set eth0 up
    ip netns exec "node$number" unshare --mount --uts --ipc --pid --fork --kill-child \
        bash "$here" "$shared" "$checkout" "node$number" > "$shared/log/node$number" 2>&1 &
done
exec slurmctld -D > "$shared/log/login" 2>&1
