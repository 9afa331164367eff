# What a Tab offers in zsh: zsh -f zsh_capture.zsh FILE 'the line so far'. Prints "<hit>WORD" lines.
zmodload zsh/zpty || exit 1
hook='
zstyle ":completion:*" list-grouped false
zstyle ":completion:*" insert-tab false
compadd () {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    typeset -a hits
    builtin compadd -A hits "$@"
    local each
    for each in $hits; do print -r -- "<hit>$each"; done
    return 1
}
finish () { print -r -- "<end>"; exit }
comppostfuncs=(finish)
'
zpty shell zsh -f -i
zpty -w shell "PROMPT= ; autoload -Uz compinit; compinit -u -D; source ${(q)1}; eval ${(q)hook}"
zpty -w shell 'print ready-$((1+1))'
zpty -r -m shell started '*ready-2*'
zpty -w -n shell "$2"$'\t'
zpty -r -m shell offered '*<end>*'
print -r -- "$offered"
zpty -d shell
