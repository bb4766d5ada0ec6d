#!/bin/sh
# Speed on one GPU: what docs/performance.md asks, in pieces that end within ten minutes. Nothing else should run.
#
#     sh tests/bench/gpu.sh                       # names the pieces
#     sh tests/bench/gpu.sh loop-resnet18 stages  # carries these out, one after another
#
# Each writes reports/bench/<piece>-<device>.json, the loops after each pair, so that a piece whose time is up leaves
# what it has measured. PYTHON: the interpreter, .venv/bin/python if not said. DATA: a data set under data/, fer2013
# if not said; loops and stages need none.
set -u
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python} data=${DATA:-fer2013} failed=0

measure() {
    PYTHONPATH=.:tests${PYTHONPATH:+:$PYTHONPATH} timeout 9m "$python" -m "$@" || failed=$?
}

if [ $# -eq 0 ]; then
    echo "loop-resnet18 loop-facevgg loop-efficientnet_b0 loop-112px time-to time-to-compiled"
    echo "at_once-facevgg_small at_once-facevgg at_once-resnet18 stages"
fi
for piece in "$@"; do
    label=${piece#*-} runs="bench.at_once --data $data --pairs 2"
    echo "== $piece"
    case $piece in
        loop-112px) measure bench.loop --sizes 112 --backbones resnet18 --label "$label" ;;
        loop-*) measure bench.loop --backbones "$label" --label "$label" ;;
        time-to) measure bench.time_to --data "$data" --accuracy 70 ;;
        time-to-compiled) measure bench.time_to --data "$data" --accuracy 70 --compile ;;
        at_once-facevgg_small) measure $runs --nets facevgg_small:32:48 --label "$label" ;;
        at_once-facevgg) measure $runs --nets facevgg:40:128 --label "$label" ;;
        at_once-resnet18) measure $runs --nets resnet18:48:128 --label "$label" ;;
        stages) measure bench.stages --rows 16384 ;;
        *) echo "$piece: no such piece" >&2; failed=2 ;;
    esac
done
exit $failed
