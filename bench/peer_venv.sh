# Sourced by the scripts that make a peer's own environment, with `venv` and `wanted` set: the folder, and what is to be in it. Ends
# the script when a second run finds it ready; else makes the environment with torch in it and leaves `install` for the rest.
python=${PYTHON:-python3}
if [ "$(cat "$venv/.ready" 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi
echo "bench: making $venv ($wanted)"
"$python" -m venv "$venv"

install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

# First and alone, so that its build (CPU or CUDA) is kept.
install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "${wanted%% *}"
