#!/bin/sh
# A skeleton of a hook: it keeps each server's state in a file below the directory that is its first argument. Replace
# what reads and writes these files with calls to your balancer. One JSON object comes in on standard input.
cd "$1" || exit 1
request=$(cat)
state() { cat "$1" 2>/dev/null || echo ready; }
case $request in
  *'"do":"status"'*)
    printf '{"servers":['
    printf '{"backend":"puppet","server":"compiler1","admin":"%s","health":"up","sessions":3},' "$(state compiler1)"
    printf '{"backend":"puppet","server":"compiler2","admin":"%s","health":"up"}]}\n' "$(state compiler2)" ;;
  *'"do":"drain"'*'puppet/compiler1'*) echo drain > compiler1 ;;
  *'"do":"drain"'*'puppet/compiler2'*) echo drain > compiler2 ;;
  *'"do":"ready"'*'puppet/compiler1'*) rm -f compiler1 ;;
  *'"do":"ready"'*'puppet/compiler2'*) rm -f compiler2 ;;
  # *'"do":"close"'*'puppet/compiler1'*) here the sessions of a drained server are ended ;;
  *) echo "not understood: $request" >&2; exit 1 ;;
esac
