# bash completion for orchctl. Written by `make specs` from orchctl's own verbs; do not edit.
# shellcheck shell=bash

_orchctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local verb='' word i options='' words='' files=''
    # --option=value comes as three words
    [[ $cur == = ]] && cur=
    [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == -* ]] && continue
        case $verb in
        '') verb=$word ;;
        models | artifacts | policy | config) verb="$verb $word" && break ;;
        *) break ;;
        esac
    done
    COMPREPLY=()
    case $verb in
    '')
        options='--version --help'
        words='up run embed rerank explain status cancel pools sessions drain reload plan provision models artifacts policy config'
        ;;
    'up')
        options='--config --log --help'
        case $prev in
        --config) options='' words='' files=1 ;;
        --log) options='' files='' words='auto json pretty' ;;
        esac
        ;;
    'run')
        options='--engine --pool-engine --model --priority --max-tokens --ctx --deadline-ms --seed --strict --session --pin --prefer --avoid --no-fallback --mask --json --ca-file --url --token-file --help'
        case $prev in
        --engine | --pool-engine) return ;;
        --model) return ;;
        --priority) options='' files='' words='interactive batch' ;;
        --max-tokens) return ;;
        --ctx) return ;;
        --deadline-ms) return ;;
        --seed) return ;;
        --session) return ;;
        --pin) return ;;
        --prefer) return ;;
        --avoid) return ;;
        --mask) return ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'embed')
        options='--ca-file --url --token-file --json --priority --ctx --model --engine --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        --priority) options='' files='' words='interactive batch' ;;
        --ctx) return ;;
        --model) return ;;
        --engine) return ;;
        esac
        ;;
    'rerank')
        options='--ca-file --url --token-file --json --priority --ctx --model --engine --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        --priority) options='' files='' words='interactive batch' ;;
        --ctx) return ;;
        --model) return ;;
        --engine) return ;;
        esac
        ;;
    'explain')
        options='--engine --model --priority --max-tokens --ctx --strict --session --pin --prefer --avoid --no-fallback --mask --json --ca-file --url --token-file --help'
        case $prev in
        --engine) return ;;
        --model) return ;;
        --priority) options='' files='' words='interactive batch' ;;
        --max-tokens) return ;;
        --ctx) return ;;
        --session) return ;;
        --pin) return ;;
        --prefer) return ;;
        --avoid) return ;;
        --mask) return ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'status')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'cancel')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'pools')
        options='--user --json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'sessions')
        options='--end --json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'drain')
        options='--deadline --no-wait --json --ca-file --url --token-file --help'
        case $prev in
        --deadline) return ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'reload')
        options='--digest --no-wait --json --ca-file --url --token-file --help'
        case $prev in
        --digest) return ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'plan')
        options='--config --json --help'
        case $prev in
        --config) options='' words='' files=1 ;;
        esac
        ;;
    'provision')
        options='--config --json --help'
        case $prev in
        --config) options='' words='' files=1 ;;
        esac
        ;;
    'models')
        options='--help'
        words='activate add exists fetch list locate remove retire show verify'
        ;;
    'models activate')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models add')
        options='--digest --tag --signature --sbom --strict --json --ca-file --url --token-file --help'
        files=1
        case $prev in
        --digest) return ;;
        --tag) return ;;
        --signature) return ;;
        --sbom) return ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models exists')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models fetch')
        options='--digest --whole --cache-dir --config --json --ca-file --url --token-file --help'
        case $prev in
        --digest) return ;;
        --cache-dir) options='' words='' files=1 ;;
        --config) options='' words='' files=1 ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models list')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models locate')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models remove')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models retire')
        options='--after --json --ca-file --url --token-file --help'
        case $prev in
        --after) return ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models show')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'models verify')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'artifacts')
        options='--help'
        words='add list remove show'
        ;;
    'artifacts add')
        options='--tag --parent --json --ca-file --url --token-file --help'
        files=1
        case $prev in
        --tag) return ;;
        --parent) return ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'artifacts list')
        options='--tag --job --cursor --json --ca-file --url --token-file --help'
        case $prev in
        --tag) return ;;
        --job) return ;;
        --cursor) return ;;
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'artifacts remove')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'artifacts show')
        options='--json --ca-file --url --token-file --help'
        case $prev in
        --ca-file) options='' words='' files=1 ;;
        --url) return ;;
        --token-file) options='' words='' files=1 ;;
        esac
        ;;
    'policy')
        options='--help'
        words='test'
        ;;
    'policy test')
        options='--arg --fuel --memory-mb --deadline-ms --json --help'
        files=1
        case $prev in
        --arg) return ;;
        --fuel) return ;;
        --memory-mb) return ;;
        --deadline-ms) return ;;
        esac
        ;;
    'config')
        options='--help'
        words='check schema'
        ;;
    'config check')
        options='--json --help'
        files=1
        ;;
    'config schema')
        options='--help'
        ;;
    esac
    if [[ -n $files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
    [[ $cur == -* ]] && words=$options
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _orchctl orchctl
