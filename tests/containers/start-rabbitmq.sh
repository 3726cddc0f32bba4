#!/bin/sh
# Inside the local test image: starts RabbitMQ with the user, password, vhost and port that the official image also
# takes from the environment; Debian's package does not read the RABBITMQ_DEFAULT_* variables by itself.
set -eu
home=/var/lib/rabbitmq
cat >"$home/test.conf" <<CONF
listeners.tcp.default = ${RABBITMQ_NODE_PORT:-5672}
default_user = ${RABBITMQ_DEFAULT_USER:-guest}
default_pass = ${RABBITMQ_DEFAULT_PASS:-guest}
default_vhost = ${RABBITMQ_DEFAULT_VHOST:-/}
loopback_users = none
CONF
# localhost: the node's name then needs no name service; sbwt none: an idle test server must not spin.
export HOME=$home RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_CONFIG_FILE="$home/test.conf" RABBITMQ_LOGS=- RABBITMQ_LOG_BASE=$home/log
export RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+sbwt none +sbwtdcpu none +sbwtdio none"
exec /usr/lib/rabbitmq/bin/rabbitmq-server
