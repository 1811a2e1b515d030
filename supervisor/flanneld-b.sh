#!/bin/bash
# The start script of a second network, beside flanneld.sh: a prefix, a subnet file and ports of its own. The rest is as
# in flanneld.sh, whose remarks hold here too.
exec ./pyflanneld \
  --public-ip=192.168.14.21 \
  --etcd-prefix=/coreos.com/network-b \
  --etcd-endpoints=https://192.168.14.12:2379,https://192.168.14.21:2379,https://192.168.14.22:2379 \
  --etcd-cafile=./certs/ca.pem \
  --etcd-certfile=./certs/client.pem \
  --etcd-keyfile=./certs/client-key.pem \
  --iface=eth1 \
  --subnet-file=./subnet-b.env \
  --healthz-port=2411 \
  --metrics-bind=127.0.0.1:2412
