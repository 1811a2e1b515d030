"""Shell: etcd, over gRPC (v3) and HTTP (v2). The only user of grpc and aetcd."""

import os

# gRPC's core writes lines in a format of its own to stderr, unless this is set before its first import. What matters in
# them reaches us as error details. An operator who wants the lines sets the variable.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
