#!/bin/sh
# replay.sh - another reward on the rollouts that a store already has: nothing of the training set is sampled again.
#
#     pipelines/replay.sh --work DIR --model MODEL --lexicon FILE|--exec COMMAND|--reward-model DIR --reward NAME
#         [options of align.sh]
#
# It is align.sh on the same store under another reward name: tokenize and rollout find nothing missing, the stored
# rollouts are scored anew, and a value model is trained on those scores.  --prompts is not needed.  Options that say how the
# rollouts were sampled (--samples, --base-samples, --max-new-tokens, --seed) are those of the first time.
set -eu
cd "$(dirname "$0")/.."

work=vas-work previous=
for argument in "$@"; do
    case $argument in
    -h | --help) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    esac
    [ "$previous" != --work ] || work=$argument
    previous=$argument
done
if [ ! -f "$work/store.db" ]; then
    echo "vas-replay: no store \"$work/store.db\"" >&2
    echo "hint: name the directory of an earlier align.sh or demo.sh with --work" >&2
    exit 66
fi
exec pipelines/align.sh --prompts /dev/null "$@"
