#!/usr/bin/env bash
# Installs an exact lock and this package into .venv. Called by `make setup` and `make GPU=1 setup`.
#
#   requirements/install.sh cpu|gpu       PYTHON=/path/to/python3.11 picks the interpreter
#
# With an unchanged lock, Python and directory a further run does nothing. After an interruption it
# goes on where it was: what is installed already is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

flavour=${1:?usage: requirements/install.sh cpu|gpu}
lock=requirements/$flavour.txt
log=.venv/setup.log
stamp=.venv/setup.stamp
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

pin() { sed -n "s/^$1==\([^ ;]*\).*/$1==\1/p" "$lock"; }

state() { # what the environment is made from; another state means another run
    printf '%s %s %s %s\n' "$flavour" "$PWD" "$(.venv/bin/python -V)" \
        "$(cat "$lock" pyproject.toml requirements/install.sh | sha256sum | cut -d' ' -f1)"
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null
        then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python from 3.11 to 3.14 found (looked for ${PYTHON:-python3.11 ... python3.14, python3})." \
        "Install Python 3.11, or name one: make PYTHON=/path/to/python3.11 setup"
}

check_machine() {
    [[ $(uname -s) == Linux ]] || fail "only Linux is supported: vLLM has no wheels for $(uname -s)."
    command -v g++ >/dev/null || fail "g++ is missing (DeepSpeed compiles a part at first use)." \
        "On Debian or Ubuntu: apt-get install g++"
    "$1" -c 'import ensurepip, venv' 2>/dev/null || fail "$1 has no venv module." \
        "On Debian or Ubuntu: apt-get install python3-venv"
    "$1" -c 'import os, sysconfig as s; assert os.path.exists(s.get_path("include") + "/Python.h")' \
        2>/dev/null || fail "$1 has no C headers (DeepSpeed compiles a part at first use)." \
        "On Debian or Ubuntu: apt-get install python3-dev"
}

make_venv() { # keeps one of the same Python and flavour: a CPU and a CUDA build do not mix
    if [[ -x .venv/bin/python && $(.venv/bin/python -V) == "$("$1" -V)" ]] &&
        [[ ! -f $stamp || $(cut -d' ' -f1 "$stamp") == "$flavour" ]]; then
        return
    fi
    "$1" -m venv --clear .venv
}

# Without --no-compile most of the time would go into byte-compiling modules that nobody imports.
pip_install() {
    .venv/bin/python -m pip install --retries 2 --no-deps --no-compile "$@" >>"$log" 2>&1
}

phase() { # phase NUMBER TITLE COMMAND...: runs the command and prints how long it took
    local started=$SECONDS title="[$1/6] $2"
    printf '%s ...\n' "$title"
    if ! "${@:3}"; then
        tail -n 15 "$log" >&2
        fail "\"$2\" failed; the lines above are the end of $log." "$(explain_failure)"
    fi
    printf '%s: %d s\n' "$title" $((SECONDS - started))
}

explain_failure() {
    if grep -qE 'Retrying \(|ConnectionError|Temporary failure in name resolution|ProxyError' "$log"; then
        printf 'pip cannot reach a package registry. Check the network, the proxy and `%s`.' \
            '.venv/bin/pip config list'
    elif grep -q 'No space left on device' "$log"; then
        printf 'the disk is full: the environment takes about 5 GB, the download cache as much again.'
    else
        printf 'Run `make setup` again after mending it: what is installed is kept.'
    fi
}

install_build_tools() { pip_install "$(pin setuptools)" "$(pin wheel)" "$(pin ninja)"; }

# The CPU build of torch is called 2.x.y+cpu. Package registries in general do not carry it, and their
# plain 2.x.y is the CUDA build on Linux; a mirror for machines without GPUs may have it under either
# name. So: the CPU name, then PyTorch's own index, and the plain name last, checked afterwards.
install_torch_cpu() {
    local torch
    torch=$(pin torch)
    pip_install "$torch" ||
        pip_install --index-url https://download.pytorch.org/whl/cpu "$torch" ||
        pip_install "${torch%+cpu}" || return 1
    # `import torch` needs packages of the next phase; the file that says which build it is does not.
    grep -q '^cuda.* = None' .venv/lib/python3.*/site-packages/torch/version.py && return
    echo "this registry's ${torch%+cpu} is a CUDA build" >>"$log"
    return 1
}

install_torch_gpu() { pip_install "$(pin torch)"; }

install_packages() { pip_install -r <(grep -vE '^(torch|deepspeed)==' "$lock"); }

install_deepspeed() { DS_BUILD_OPS=0 pip_install --no-build-isolation "$(pin deepspeed)"; }

install_medgpt() { pip_install --no-build-isolation --editable .; }

# Shows that the parts fit together, and leaves them compiled for the processes that start later.
import_everything() {
    HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 PYTHONDONTWRITEBYTECODE= .venv/bin/python >>"$log" 2>&1 <<'PYTHON'
import bitsandbytes, deepspeed, matplotlib.pyplot, peft, pyarrow.parquet, pydantic, rich.live
import ray.data, ray.serve, ray.train.torch, ruamel.yaml, tensorboard, torch
import torch.utils.tensorboard, typer, typer.rich_utils
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama import modeling_llama
import vllm.entrypoints.openai.api_server, vllm.v1.worker.gpu_model_runner
from vllm import LLM, SamplingParams
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
PYTHON
}

if [[ -x .venv/bin/python && -f $stamp && $(cat "$stamp") == "$(state)" ]]; then
    echo "setup: .venv is up to date ($lock)"
    exit 0
fi

python=$(find_python)
check_machine "$python"
echo "setup: .venv from $lock with $("$python" -V); about 5 GB, a few minutes the first time"
make_venv "$python"
: >"$log"
phase 1 "build tools" install_build_tools
phase 2 "$(pin torch)" "install_torch_$flavour"
phase 3 "$(grep -c == "$lock") pinned packages" install_packages
phase 4 "$(pin deepspeed)" install_deepspeed
phase 5 "medgpt" install_medgpt
phase 6 "first imports" import_everything
state >"$stamp"
echo "setup: done in $SECONDS s"
