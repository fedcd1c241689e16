#!/bin/sh
# Writes down who ran it and which locks of root's it holds; then prints what lies beside it as NAME.says, or, for
# docker's question what sort of plugin it is, NAME.metadata.
{
	echo "$(/usr/bin/id -u) $0 $*"
	for descriptor in /proc/$$/fd/*; do
		case $(readlink "$descriptor") in /run/gpurack/*) echo "lock $(readlink "$descriptor")" ;; esac
	done
} >>/home/bob/ran 2>/dev/null
case $1 in
docker-cli-plugin-metadata) cat "$0.metadata" ;;
*) cat "$0.says" ;;
esac
