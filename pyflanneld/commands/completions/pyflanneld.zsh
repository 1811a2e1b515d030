#compdef pyflanneld
# zsh completion for pyflanneld, made by "make docs"

_pyflanneld() {
    local -a commands=(
        'cleanup:remove what the daemon has left on this host'
        'completion:print the script that completes command lines in bash, zsh or fish'
        'config:check, show and write the network configuration'
        'docker-opts:write Docker'\''s options, as flannel'\''s mk-docker-opts.sh does'
        'doctor:check this host, its etcd and its peers, and change nothing'
        'lab:try it out: a cluster in network namespaces on this machine'
        'leases:list, reserve and release subnets'
        'log-level:show or change how much the running daemon logs'
        'migrate:copy configuration and leases from etcd'\''s v2 API to v3'
        'peers:list the peers that the running daemon knows, and the state of each'
        'plan:show what the daemon would do here, and change nothing'
        'routes:list the routes of the running daemon, or what is not as it should be'
        'status:what the running daemon does, what is wrong, and what to do about it'
        'wait:wait until the running daemon is ready'
    ) daemon=(
        '--etcd-endpoints=[Members of the etcd cluster, separated by commas\: http\://host\[\:port\] or https\://host\[\:port\], all of one kind; port 2379 when left out, http when the scheme is (https with a client certificate).]:url: '
        '--etcd-prefix=[Root of all keys\: <prefix>/config and <prefix>/subnets/.]:key: '
        '--etcd-api=[API of etcd to use\: 3, 2 (where flanneld up to v0.17 keeps everything), or auto for the one that holds the configuration, 3 first.]:api:(auto 3 2)'
        '--etcd-cafile=[CA certificates (PEM) that etcd'\''s certificate is checked against; without it, the system'\''s.]:file:_files'
        '--etcd-certfile=[Client certificate (PEM); needs --etcd-keyfile.]:file:_files'
        '--etcd-keyfile=[Client key (PEM, not encrypted); needs --etcd-certfile.]:file:_files'
        '--etcd-username=[User for etcd'\''s own authentication; needs a password.]:name: '
        '--etcd-password=[Password of that user. Everyone on the host can read a command line\: prefer --etcd-password-file.]:text: '
        '--etcd-password-file=[File whose only line is the password.]:file:_files'
        '--allow-plaintext-auth[Send user and password over http to an endpoint that is not on this host.]'
        '--refuse-exposed-keys[Refuse a client key or a password file that others than its owner can read; without it, a warning.]'
        '*--iface=[Interface towards the other nodes, by name or IPv4 address; the first usable one counts; an empty value is the default route'\''s. Without this and the next two, the one with --public-ip or the default route'\''s.]:name ip: '
        '*--iface-regex=[Regular expression of Go for that interface, tried after all --iface; searched for in the addresses of every interface first, then in the names. ^ and $ anchor it.]:regex: '
        '--iface-can-reach=[Take the interface and the address through which the kernel reaches this address; tried after --iface-regex.]:ip: '
        '--public-ip=[IPv4 address at which the peers reach this node; must be on the interface, but for vxlan. Without it, the interface'\''s address.]:ip: '
        '--public-ipv6=[IPv6 address that the peers use as gateway to this node, in a dual-stack network; must be on the interface. Without it, the interface'\''s global address.]:ip: '
        '--subnet-file=[Where the subnet is written for Docker; read at start for the subnet to request.]:file:_files'
        '--state-dir=[Directory where the last good state is kept, from which subnet file, routes and rules are restored when the host boots while etcd cannot be used. Without it, none is kept.]:dir: '
        '--docker-bridge=[Docker'\''s bridge; a warning is logged when it exists and is not on the leased subnet. --docker-bridge= turns that off.]:name: '
        '--subnet-lease-renew-margin=[Minutes before its end by which the lease has to be renewed; it is renewed far earlier. From 1 to 1439.]:minutes: '
        '--route-protocol=[Protocol number (5 to 255, not another routing daemon'\''s) that marks the routes this daemon owns.]:number: '
        '--withdraw-guard[Before most routes are removed at once, wait for two more complete lists from etcd that agree.]'
        '--ip-blackhole-route[Keep a blackhole route for this host'\''s subnet, so that packets to containers that are gone are dropped here and not sent out by the default route.]'
        '--ip-masq[Masquerade what goes from the network to the outside, and nothing that stays inside; FLANNEL_IPMASQ says so.]'
        '--ip-masq-fully-random-disable[Do not have the source ports of masqueraded connections chosen at random.]'
        '--iptables-forward-rules[Let packets from and to the network be forwarded, whatever the policy of iptables'\'' FORWARD.]'
        '--iptables-resync=[How often the firewall rules are checked and repaired. From 1 to 86400.]:seconds: '
        '--probe[Probe the peers'\'' addresses and the first address of each of their subnets, and report which do not answer.]'
        '--probe-interval=[How often each peer is probed, with --probe; large networks take longer. From 5 to 3600.]:seconds: '
        '--healthz-ip=[Address of the health listener, or a name of it.]:ip name: '
        '--healthz-port=[Port of /healthz and /readyz; 0 or less switches it off.]:port: '
        '--metrics-bind=[Where the page for browsers and /metrics are served, without a password; --metrics-bind=off switches both off.]:address port: '
        '--metrics-textfile=[File that the metrics are written to every 15 s, for node_exporter'\''s textfile collector; ends in .prom.]:file:_files'
        '--user=[Started as root, become this user, by name or number, with CAP_NET_ADMIN alone; its directory has to hold the subnet file.]:user  group: '
        '--log-format=[console or json, on stderr.]:format:(console json)'
        '-v[Verbosity of the log; 1 and more adds debug lines.]:level: '
        '--version[Print the version and exit.]'
        '--help[Print this text and exit.]'
    )
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        _describe command commands
        return
    fi
    local command=$words[2]
    if [[ $command != -* ]]; then
        shift words
        (( CURRENT-- ))
    fi
    case $command in
        -*)
            _arguments $daemon
            ;;
        cleanup)
            _arguments '--release[Also delete this host'\''s lease and the subnet file.]' \
                '--dry-run[Only show what would be removed.]' \
                '*--network=[The cluster'\''s network, if neither etcd nor the subnet file names it.]:cidr: ' \
                $daemon
            ;;
        completion)
            _arguments '--help[Print help and exit.]' \
                '1:word:(bash zsh fish)'
            ;;
        config)
            _arguments '--output=[text or json.]:format:(text json)' \
                '--dry-run[Set\: only show what would be done.]' \
                '--force[Set\: write it even if live leases do not fit, or a flanneld cannot read it.]' \
                '--etcd-endpoints=[Members of the etcd cluster, separated by commas\: http\://host\[\:port\] or https\://host\[\:port\], all of one kind; port 2379 when left out, http when the scheme is (https with a client certificate).]:url: ' \
                '--etcd-prefix=[Root of all keys\: <prefix>/config and <prefix>/subnets/.]:key: ' \
                '--etcd-api=[API of etcd to use\: 3, 2 (where flanneld up to v0.17 keeps everything), or auto for the one that holds the configuration, 3 first.]:api:(auto 3 2)' \
                '--etcd-cafile=[CA certificates (PEM) that etcd'\''s certificate is checked against; without it, the system'\''s.]:file:_files' \
                '--etcd-certfile=[Client certificate (PEM); needs --etcd-keyfile.]:file:_files' \
                '--etcd-keyfile=[Client key (PEM, not encrypted); needs --etcd-certfile.]:file:_files' \
                '--etcd-username=[User for etcd'\''s own authentication; needs a password.]:name: ' \
                '--etcd-password=[Password of that user. Everyone on the host can read a command line\: prefer --etcd-password-file.]:text: ' \
                '--etcd-password-file=[File whose only line is the password.]:file:_files' \
                '--allow-plaintext-auth[Send user and password over http to an endpoint that is not on this host.]' \
                '--refuse-exposed-keys[Refuse a client key or a password file that others than its owner can read; without it, a warning.]' \
                '--help[Print help and exit.]' \
                '1:word:(check show set)'
            ;;
        docker-opts)
            _arguments '-f[subnet file (/run/flannel/subnet.env)]:file:_files' \
                '-d[to write, or - (/run/docker_opts.env)]:file:_files' \
                '-i[only one variable for each option\: DOCKER_OPT_MTU, ...]' \
                '-c[only the variable with all options]' \
                '-k[its name (DOCKER_OPTS)]:name: ' \
                '-m[leave --ip-masq out]' \
                '--format=[env, the default\: the file above; json\: for daemon.json, on stdout; network\: arguments for '\''docker network create'\'', on stdout]:format:(env json network)' \
                '--into=[put the json into this daemon.json; its other keys stay]:file:_files' \
                '--docker-version=[instead of asking dockerd or docker]:x: ' \
                '--no-direct-routing[leave out what Docker 28 and later needs to let other nodes in]' \
                '*--trusted-interface=[for '\''network'\''\: let only published ports in, from this interface; may be repeated]:name: ' \
                '--help[Print help and exit.]'
            ;;
        doctor)
            _arguments '--output=[text or json.]:format:(text json)' \
                '--all[Also show what is ok or was skipped (json always does).]' \
                $daemon
            ;;
        lab)
            _arguments '--name=[which laboratory, if there are several (default\: lab)]:name: ' \
                '--root=[folder for its state (default\: /run/pyflanneld-lab)]:file:_files' \
                '--nodes=[how many hosts (default\: 3)]:n: ' \
                '--networks=[how many networks each host has (default\: 1)]:n: ' \
                '--backend=[(default\: host-gw)]:format:(host-gw vxlan)' \
                '--direct-routing[vxlan\: hosts on one LAN do without it]' \
                '--segments=[vxlan\: how many LANs, with a router between (1 or 2)]:n: ' \
                '--help[Print help and exit.]' \
                '1:word:(up status exec down demo)'
            ;;
        leases)
            _arguments '--output=[table or json, for list.]:format:(table json)' \
                '--force[Release a live lease.]' \
                '--etcd-endpoints=[Members of the etcd cluster, separated by commas\: http\://host\[\:port\] or https\://host\[\:port\], all of one kind; port 2379 when left out, http when the scheme is (https with a client certificate).]:url: ' \
                '--etcd-prefix=[Root of all keys\: <prefix>/config and <prefix>/subnets/.]:key: ' \
                '--etcd-api=[API of etcd to use\: 3, 2 (where flanneld up to v0.17 keeps everything), or auto for the one that holds the configuration, 3 first.]:api:(auto 3 2)' \
                '--etcd-cafile=[CA certificates (PEM) that etcd'\''s certificate is checked against; without it, the system'\''s.]:file:_files' \
                '--etcd-certfile=[Client certificate (PEM); needs --etcd-keyfile.]:file:_files' \
                '--etcd-keyfile=[Client key (PEM, not encrypted); needs --etcd-certfile.]:file:_files' \
                '--etcd-username=[User for etcd'\''s own authentication; needs a password.]:name: ' \
                '--etcd-password=[Password of that user. Everyone on the host can read a command line\: prefer --etcd-password-file.]:text: ' \
                '--etcd-password-file=[File whose only line is the password.]:file:_files' \
                '--allow-plaintext-auth[Send user and password over http to an endpoint that is not on this host.]' \
                '--refuse-exposed-keys[Refuse a client key or a password file that others than its owner can read; without it, a warning.]' \
                '--help[Print help and exit.]' \
                '1:word:(list reserve release)'
            ;;
        log-level)
            _arguments '--subnet-file=[Which daemon\: the one with this subnet file.]:path:_files' \
                '--help[Print help and exit.]' \
                '1:word:(debug info warning)'
            ;;
        migrate)
            _arguments '--etcd-endpoints=[Members of the etcd cluster, separated by commas\: http\://host\[\:port\] or https\://host\[\:port\], all of one kind; port 2379 when left out, http when the scheme is (https with a client certificate).]:url: ' \
                '--etcd-prefix=[Root of all keys\: <prefix>/config and <prefix>/subnets/.]:key: ' \
                '--etcd-cafile=[CA certificates (PEM) that etcd'\''s certificate is checked against; without it, the system'\''s.]:file:_files' \
                '--etcd-certfile=[Client certificate (PEM); needs --etcd-keyfile.]:file:_files' \
                '--etcd-keyfile=[Client key (PEM, not encrypted); needs --etcd-certfile.]:file:_files' \
                '--etcd-username=[User for etcd'\''s own authentication; needs a password.]:name: ' \
                '--etcd-password=[Password of that user. Everyone on the host can read a command line\: prefer --etcd-password-file.]:text: ' \
                '--etcd-password-file=[File whose only line is the password.]:file:_files' \
                '--allow-plaintext-auth[Send user and password over http to an endpoint that is not on this host.]' \
                '--refuse-exposed-keys[Refuse a client key or a password file that others than its owner can read; without it, a warning.]' \
                '--dry-run[Only show what would be done.]' \
                '--help[Print help and exit.]'
            ;;
        peers)
            _arguments '--output=[text or json.]:format:(text json)' \
                '--subnet-file=[Which daemon\: the one with this subnet file.]:path:_files' \
                '--help[Print help and exit.]'
            ;;
        plan)
            _arguments '--output=[text or json.]:format:(text json)' \
                $daemon
            ;;
        routes)
            _arguments '--diff[Only what differs; exit code 1 if anything does.]' \
                '--output=[text or json.]:format:(text json)' \
                '--subnet-file=[Which daemon\: the one with this subnet file.]:path:_files' \
                '--help[Print help and exit.]'
            ;;
        status)
            _arguments '--output=[text or json.]:format:(text json)' \
                '--subnet-file=[Which daemon\: the one with this subnet file.]:path:_files' \
                '--help[Print help and exit.]'
            ;;
        wait)
            _arguments '--timeout=[How long to wait, in seconds.]:seconds: ' \
                '--subnet-file=[Which daemon\: the one with this subnet file.]:path:_files' \
                '--help[Print help and exit.]'
            ;;
    esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _pyflanneld "$@"
else
    compdef _pyflanneld pyflanneld
fi
