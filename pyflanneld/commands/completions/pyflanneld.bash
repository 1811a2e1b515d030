# bash completion for pyflanneld, made by "make docs"

_pyflanneld() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    local flag='' words='' flags='' daemon
    daemon='--etcd-endpoints= --etcd-prefix= --etcd-api= --etcd-cafile= --etcd-certfile= --etcd-keyfile= --etcd-username= --etcd-password= --etcd-password-file= --allow-plaintext-auth --refuse-exposed-keys --iface= --iface-regex= --iface-can-reach= --public-ip= --public-ipv6= --subnet-file= --state-dir= --docker-bridge= --subnet-lease-renew-margin= --route-protocol= --withdraw-guard --ip-blackhole-route --ip-masq --ip-masq-fully-random-disable --iptables-forward-rules --iptables-resync= --probe --probe-interval= --healthz-ip= --healthz-port= --metrics-bind= --metrics-textfile= --user= --log-format= -v --version --help'
    COMPREPLY=()
    if [[ $cur == = ]]; then    # bash takes --flag=value for three words
        flag=$prev cur=''
    elif [[ $prev == = ]]; then
        flag=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $prev == -* && $COMP_CWORD -gt 1 ]]; then
        flag=$prev
    fi
    flag=${flag#-} flag=${flag#-}
    [[ $COMP_CWORD -eq 1 || $command == -* ]] && command=''
    case $command in
        '') words='' flags=' '$daemon ;;
        cleanup) words='' flags='--release --dry-run --network= '$daemon ;;
        completion) words='bash zsh fish' flags='--help ' ;;
        config) words='check show set' flags='--output= --dry-run --force --etcd-endpoints= --etcd-prefix= --etcd-api= --etcd-cafile= --etcd-certfile= --etcd-keyfile= --etcd-username= --etcd-password= --etcd-password-file= --allow-plaintext-auth --refuse-exposed-keys --help ' ;;
        docker-opts) words='' flags='-f -d -i -c -k -m --format= --into= --docker-version= --no-direct-routing --trusted-interface= --help ' ;;
        doctor) words='' flags='--output= --all '$daemon ;;
        lab) words='up status exec down demo' flags='--name= --root= --nodes= --networks= --backend= --direct-routing --segments= --help ' ;;
        leases) words='list reserve release' flags='--output= --force --etcd-endpoints= --etcd-prefix= --etcd-api= --etcd-cafile= --etcd-certfile= --etcd-keyfile= --etcd-username= --etcd-password= --etcd-password-file= --allow-plaintext-auth --refuse-exposed-keys --help ' ;;
        log-level) words='debug info warning' flags='--subnet-file= --help ' ;;
        migrate) words='' flags='--etcd-endpoints= --etcd-prefix= --etcd-cafile= --etcd-certfile= --etcd-keyfile= --etcd-username= --etcd-password= --etcd-password-file= --allow-plaintext-auth --refuse-exposed-keys --dry-run --help ' ;;
        peers) words='' flags='--output= --subnet-file= --help ' ;;
        plan) words='' flags='--output= '$daemon ;;
        routes) words='' flags='--diff --output= --subnet-file= --help ' ;;
        status) words='' flags='--output= --subnet-file= --help ' ;;
        wait) words='' flags='--timeout= --subnet-file= --help ' ;;
        *) return ;;
    esac
    case $command:$flag in
        leases:output) words='table json' ;;
        *:etcd-endpoints|*:etcd-prefix|*:etcd-username|*:etcd-password|*:iface|*:iface-regex|*:iface-can-reach|*:public-ip|*:public-ipv6|*:state-dir|*:docker-bridge|*:subnet-lease-renew-margin|*:route-protocol|*:iptables-resync|*:probe-interval|*:healthz-ip|*:healthz-port|*:metrics-bind|*:user|*:v|*:network|*:k|*:docker-version|*:trusted-interface|*:name|*:nodes|*:networks|*:segments|*:timeout) return ;;
        *:etcd-api) words='auto 3 2' ;;
        *:etcd-cafile|*:etcd-certfile|*:etcd-keyfile|*:etcd-password-file|*:subnet-file|*:metrics-textfile|*:f|*:d|*:into|*:root) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        *:log-format) words='console json' ;;
        *:output) words='text json' ;;
        *:format) words='env json network' ;;
        *:backend) words='host-gw vxlan' ;;
        *)
            if [[ $cur == -* ]]; then
                words=$flags
            elif [[ $COMP_CWORD -eq 1 ]]; then
                words='cleanup completion config docker-opts doctor lab leases log-level migrate peers plan routes status wait'
            elif [[ $COMP_CWORD -ne 2 ]]; then
                words=''
            fi
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -F _pyflanneld pyflanneld
