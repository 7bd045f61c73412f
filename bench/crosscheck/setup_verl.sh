#!/bin/sh
# Makes .venv-verl. Run from the repository root; a second run is instant. verl itself is installed without its requirements, most of
# which need a GPU or are not imported by its formulas; what the formulas import is named here.
set -eu
venv=${1:-.venv-verl}
wanted='torch==2.13.0 verl==0.9.1 transformers==5.23.0'
. "$(dirname "$0")/../peer_venv.sh"
install --no-deps verl==0.9.1
install transformers==5.23.0 'ray>=2.41' 'tensordict>=0.8,<=0.10,!=0.9.0' \
    omegaconf hydra-core codetiming pandas dill cloudpickle packaging
echo "$wanted" >"$venv/.ready"
