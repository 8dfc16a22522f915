#!/usr/bin/env bash
# Measures one GPU in three parts of at most nine minutes each:
#
#     bash calibrate/gpu/measure.sh 1|2|3 FOLDER
#
# 1  kernels against fp64, then operators: linear, head, attention by KV dtype
# 2  whole steps (in graphs and not), mixed and skewed attention, copies, swaps, KV writes
# 3  a served trace on real kernels: a pilot, at the knee twice, with little memory twice
#
# Parts 1 and 2 need torch, triton and numpy; part 3 also what calibrate/gpu/wheels.sh fetches.
# What is worth most comes first, every line is on disk when it is measured, and a part that was
# stopped goes on where it was when it is given the same folder again.
#
# MODEL, DEVICE, SECONDS_PER_PART, PYTHON and CONFIG may be set; MEASURE_OPTIONS and SERVE_OPTIONS
# go to the commands of parts 1 and 2, and of part 3.
set -u -o pipefail

part=${1:?part: 1, 2 or 3}
out=${2:?a folder for the files}
model=${MODEL:-calibrate/models/Llama-3.1-8B.json}
device=${DEVICE:-cuda}
total=${SECONDS_PER_PART:-530}
# What takes less is not begun: it would hardly have started.
least=${LEAST_SECONDS:-20}
python=${PYTHON:-python3}
config=${CONFIG:-configs/kernels-8b.yaml}
read -r -a serve_options <<<"${SERVE_OPTIONS:-}"
read -r -a measure_options <<<"${MEASURE_OPTIONS:-}"
export PYTHONUNBUFFERED=1
mkdir -p "$out" || exit 2
log=$out/log-$part.txt
SECONDS=0

say() { echo "[$SECONDS s] $*" | tee -a "$log"; }

left() { echo $((total - SECONDS)); }

# at_most SECONDS COMMAND...: with that much time, or what is left; an interrupt, then a kill.
at_most() {
    local most=$1 rest
    shift
    rest=$(left)
    if ((rest < least)); then
        say "no time left for: $*"
        return 0
    fi
    ((most > rest)) && most=$rest
    say "$*"
    timeout --signal=INT --kill-after=10 "$most" "$@" 2>&1 | tee -a "$log"
    say "exit code ${PIPESTATUS[0]}"
}

# operators NAME SECONDS KV_DTYPE STEPS PART...: those parts of the grid, into NAME.jsonl.
operators() {
    local name=$1 budget=$2 kv=$3 steps=$4 only=() each rest
    shift 4
    for each in "$@"; do only+=(--only "$each"); done
    rest=$(left)
    # Twenty seconds to start and to end.
    ((budget > rest - 20)) && budget=$((rest - 20))
    ((budget < 5)) && { say "no time left for $name"; return 0; }
    at_most $((budget + 40)) "$python" -m calibrate.measure --model "$model" --device "$device" \
        --kv-cache-dtype "$kv" --budget "$budget" --steps "$steps" --out "$out/$name.jsonl" \
        "${only[@]}" "${measure_options[@]}"
}

# serve NAME SECONDS OPTION...: one run, into NAME.jsonl.
serve() {
    local name=$1 most=$2
    shift 2
    at_most "$most" "$python" -m experiments.serve_kernels "$config" --out "$out/$name.jsonl" \
        "$@" "${serve_options[@]}"
}

check_kernels() {
    local format
    : >"$out/kernels.jsonl"
    for format in bfloat16 int8_per_token_head fp8_e4m3 float16 float32; do
        timeout 110 "$python" -m calibrate.kernels --check --provider triton --format "$format" \
            --out "$out/kernels.jsonl" &
    done
    timeout 110 "$python" -m calibrate.kernels --check --provider torch \
        --out "$out/kernels.jsonl" &
    compile_ahead
    wait
}

# A process for each KV dtype, in the background.
compile_ahead() {
    local format
    for format in bfloat16 int8_per_token_head fp8_e4m3; do
        timeout 110 "$python" -m calibrate.gpu.compile_ahead --model "$model" --device "$device" \
            --format "$format" &
    done
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw \
    --format=csv,noheader 2>/dev/null | tee -a "$log"
case $part in
1)
    say "kernels against fp64"
    check_kernels 2>&1 | tee -a "$log" | grep -E 'OFF|rror|not here|compiled'
    say "findings: $(wc -l <"$out/kernels.jsonl"), of them" \
        "$(grep -c '"provider": "triton"' "$out/kernels.jsonl") of triton;" \
        "off, or not to be run: $(grep -c '"bad": true' "$out/kernels.jsonl")"
    dense=(linear head sampling)
    both=(attention_decode attention_prefill)
    operators operators-bf16 190 auto 0 "${dense[@]}" "${both[@]}"
    operators operators-int8 110 int8 0 "${both[@]}"
    operators operators-fp8 100 fp8 0 "${both[@]}"
    ;;
2)
    say "compiling"
    {
        compile_ahead
        wait
    } 2>&1 | tee -a "$log"
    moves=(kv_write block_copy swap_out swap_in)
    operators steps-bf16 180 auto 200 steps
    operators more-bf16 60 auto 0 skew attention_mixed "${moves[@]}"
    operators steps-int8 55 int8 100 steps
    operators more-int8 40 int8 0 skew attention_mixed "${moves[@]}" dequantise
    operators steps-fp8 35 fp8 60 steps
    operators more-fp8 30 fp8 0 attention_mixed kv_write
    ;;
3)
    serve pilot 110 --random-steps 60
    knee=(--pilot "$out/pilot.jsonl" --share 0.85 --seconds 55 --random-steps 30)
    short=(--pilot "$out/pilot.jsonl" --share 0.85 --seconds 30 --random-steps 30
        --set engine.num_gpu_blocks_override=1500)
    serve knee-1 130 "${knee[@]}"
    serve pressure-1 130 "${short[@]}"
    serve knee-2 130 "${knee[@]}"
    serve pressure-2 130 "${short[@]}"
    ;;
*)
    echo "part: found $part; allowed: 1, 2 or 3" >&2
    exit 2
    ;;
esac
nvidia-smi --query-gpu=clocks.sm,temperature.gpu,power.draw,clocks_event_reasons.active \
    --format=csv,noheader 2>/dev/null | tee -a "$log"
say "part $part is done"
wc -l "$out"/*.jsonl 2>/dev/null | tee -a "$log"
exit 0
