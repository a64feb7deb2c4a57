# Where a machine keeps things, for pipelines and for the Makefile. Sourced by a POSIX shell:
#     . configs/environment/default.sh
#     make pipeline yml=configs/pipelines/demo.yml ENV_FILE=configs/environment/default.sh
# For another machine copy this file, change the copy and name it in ENV_FILE. What is set already is kept.
# A pipeline file may say ${DATA_DIRECTORY}, ${CACHE_DIRECTORY}, ${ARTIFACTS_DIRECTORY} and ${NUSSL_DIRECTORY}; one that
# has no value is an error at submit, never an empty string. Jobs see all four where they are set. Containers see the
# first three at these same paths and at /storage/data, /storage/cache and /storage/artifacts too.

# Data sets to train on and to evaluate with.
export DATA_DIRECTORY="${DATA_DIRECTORY:-${XDG_DATA_HOME:-$HOME/.local/share}/runners/data}"

# What can be made again from the data: zarr caches of inputs and targets. They grow large; safe to delete.
export CACHE_DIRECTORY="${CACHE_DIRECTORY:-${XDG_CACHE_HOME:-$HOME/.cache}/runners}"

# What experiments leave: configurations, weights, results, plots.
export ARTIFACTS_DIRECTORY="${ARTIFACTS_DIRECTORY:-${XDG_DATA_HOME:-$HOME/.local/share}/runners/artifacts}"

# A working copy of nussl for jobs to import instead of the installed one. Only for those who change nussl itself.
# export NUSSL_DIRECTORY="$HOME/nussl"

# The image of containers that name none: what `make docker` builds.
export DOCKER_IMAGE_NAME="${DOCKER_IMAGE_NAME:-runners}"

# Where `make jupyter` and `make tensorboard` are on this machine's loopback address. Each person needs ports of their own.
export JUPYTER_HOST_PORT="${JUPYTER_HOST_PORT:-8888}"
export TENSORBOARD_HOST_PORT="${TENSORBOARD_HOST_PORT:-6006}"

# Which daemon to talk to: the user's own if it answers, else the system's.
# export RUNNERS_SOCKET="/run/runners/runnersd.sock"

# Where experiments are followed (comet.com). A secret: keep it in a copy of this file that git does not track.
# export COMET_API_KEY=""

# Containers mount all of them, and a job whose directory is missing does not start.
mkdir -p "$DATA_DIRECTORY" "$CACHE_DIRECTORY" "$ARTIFACTS_DIRECTORY"
