#!/bin/bash
# The start script of the flanneld installation with the daemon's name changed; the flags are the same.
# Keep the exec: supervisor's stop signal then reaches the daemon and not only the shell (docs/install.md, step 5).
# With "--user=flanneld", the daemon keeps only CAP_NET_ADMIN of root's rights. That user must own the directory and the
# key: chown flanneld . certs/client-key.pem (does not work with legacy iptables).
exec ./pyflanneld \
  --public-ip=192.168.14.21 \
  --etcd-endpoints=https://192.168.14.12:2379,https://192.168.14.21:2379,https://192.168.14.22:2379 \
  --etcd-cafile=./certs/ca.pem \
  --etcd-certfile=./certs/client.pem \
  --etcd-keyfile=./certs/client-key.pem \
  --iface=eth1 \
  --subnet-file=./subnet.env \
  --healthz-port=2401
