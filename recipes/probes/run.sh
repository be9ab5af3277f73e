#!/bin/bash
# Every probe of the shipped encoder: run.sh CORPORA OUTPUT. What is there already is not made again.
set -e
corpora=$1 output=$2
here=$(dirname "$0") data=$2/data
mkdir -p "$output"
probe() {
    name=$1
    shift
    [ -e "$output/$name/probe.json" ] || speechssl probe --num_bootstrap 500 --output "$output/$name" "$@"
}
digits="--manifest $data/digits_train.jsonl --test_manifest $data/digits_test.jsonl"

[ -e "$data/readers.jsonl" ] || python "$here/prepare.py" --corpora "$corpora" --output "$data"
[ -e "$data/digits.ctm" ] ||
    python "$here/align.py" "$data/digits_train.jsonl" "$data/digits_test.jsonl" --output "$data/digits.ctm"
probe digits $digits --label text --num_train 120 --pool segments
probe speakers $digits --label speaker --num_train 60
probe verification --task verify --manifest "$data/readers.jsonl"
probe abx --task abx $digits --label text --across speaker --num_triples 300
probe characters --task frames $digits --alignment "$data/digits.ctm" --max_frames 4000
probe recognition --task ctc $digits
probe keywords --manifest "$data/keywords.jsonl" --label text --num_train 120 --pool segments
probe corpora --manifest "$data/languages_train.jsonl" --test_manifest "$data/languages_same_voices.jsonl" \
    --label language --num_train 60
probe languages --manifest "$data/languages_train.jsonl" --test_manifest "$data/languages_other_voices.jsonl" \
    --label language --num_train 60
[ -e "$output/search.json" ] || python "$here/search.py" --collection "$data/digits_train.jsonl" \
    --queries "$data/digits_test.jsonl" --every 3 --query_every 6 --output "$output/search.json"
for source in mfcc speechssl-tiny; do
    [ -e "$output/units-$source/result.json" ] || speechssl units $source "$data/digits_train.jsonl" --layer 3 \
        --output "$output/units-$source" --num_units 50 --num_seeds 3 --label text --first_frames 5000
done
python "$here/tables.py" "$output"
