#!/usr/bin/env bash
# Run a command as two nodes, each in a network of its own, which one virtual cable joins.
# Usage, in a fresh network namespace: two_networks.sh TRAFFIC-FILE COMMAND... ; gets --node-rank 0 and 1.
set -eu
traffic=$1
shift
unshare --net sleep 600 &
other=$!
trap 'kill $other' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
there() { nsenter --net=/proc/$other/ns/net "$@"; }
ip link add cable0 type veth peer name cable1 netns $other
ip link set lo up
ip address add 10.213.7.1/24 dev cable0
ip link set cable0 up
there ip link set lo up
there ip address add 10.213.7.2/24 dev cable1
there ip link set cable1 up
"$@" --node-rank 0 &
first=$!
code=0
there "$@" --node-rank 1 || code=$?
wait $first || code=$?
grep cable0 /proc/self/net/dev >"$traffic"
exit $code
