# shellcheck shell=bash
# The cluster that db:up starts for this clone of the repository and db:down stops: where it lives.
# usage: . scripts/lib.sh && . scripts/lib-postgres.sh && . scripts/db/cluster.sh   (sourced; sets CLUSTER_*)

CLUSTER_HASH=$(printf '%s' "$STEPWELL_ROOT" | cksum | cut -d' ' -f1)
if [ "$(id -u)" -eq 0 ]; then
  # The clone may lie in a directory that only root can enter; the cluster runs as another user.
  CLUSTER_HOME=/var/tmp/stepwell-$CLUSTER_HASH
  # shellcheck disable=SC2034 # read by the scripts that source this file
  CLUSTER_SOCKETS=$CLUSTER_HOME
else
  CLUSTER_HOME=$STEPWELL_ROOT/.stepwell/pg
  # A socket's path has at most 107 bytes, so it cannot live below an arbitrary clone.
  # shellcheck disable=SC2034
  CLUSTER_SOCKETS=/tmp/stepwell-$CLUSTER_HASH-$(id -u)
fi
# shellcheck disable=SC2034
CLUSTER_DATA=$CLUSTER_HOME/data CLUSTER_LOG=$CLUSTER_HOME/postgres.log
