#!/bin/bash
# The start script of the flanneld installation with the daemon's name changed; the flags are the same.
# exec puts the daemon in the shell's place. Without it, supervisor's stop signal would end the shell alone, and the
# daemon would go on as an orphan that nobody watches.
# With "--user=flanneld" more, the daemon gives up all rights of root's but CAP_NET_ADMIN. That user needs the directory and
# the key: chown flanneld . certs/client-key.pem (not with the legacy form of iptables).
exec ./pyflanneld \
  --public-ip=192.168.14.21 \
  --etcd-endpoints=https://192.168.14.12:2379,https://192.168.14.21:2379,https://192.168.14.22:2379 \
  --etcd-cafile=./certs/ca.pem \
  --etcd-certfile=./certs/client.pem \
  --etcd-keyfile=./certs/client-key.pem \
  --iface=eth1 \
  --subnet-file=./subnet.env \
  --healthz-port=2401
