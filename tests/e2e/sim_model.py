"""The closed form of the sim backend in Python: predicts the exact output of a token-id prompt.

The twin of engine/sim/engine_sim.h; tests/e2e/sim_golden.txt binds the two.  Run it to print the
continuation of a prompt:  python3 tests/e2e/sim_model.py FIRST COUNT LENGTH ID [ID ...]
"""
import sys

M64 = (1 << 64) - 1
START = 0x6A09E667F3BCC908
STEP = 0x9E3779B97F4A7C15
FACTOR = 0xD6E8FEB86659FD93
DRAW = 0xBB67AE8584CAA73B
END = 0x3C6EF372FE94F82B


def mix(x):
    x ^= x >> 32
    x = x * FACTOR & M64
    x ^= x >> 32
    x = x * FACTOR & M64
    return x ^ x >> 32


def push(state, token):
    return mix((state + STEP * (token + 1)) & M64)


def state_of(tokens, state=START):
    for token in tokens:
        state = push(state, token)
    return state


def token_range(vocab, special=()):
    """The (first, count) of generated ids; special: eos and bos ids of the model."""
    first = 300 if vocab > 600 else 3
    end = min([vocab] + [t for t in special if vocab // 2 < t < vocab])
    return first, end - first


def next_token(state, first, count):
    return first + mix(state ^ DRAW) % count


def ends(state, mean_output):
    return mean_output > 0 and mix(state ^ END) % mean_output == 0


def logprob(state):
    return -(mix(state ^ STEP) & 1023) / 1024.0


def generate(prompt, n, first, count, mean_output=0, eos=None):
    """The n tokens that follow the prompt (fewer if the profile lets the stop token come)."""
    state, out = state_of(prompt), []
    while len(out) < n:
        if eos is not None and ends(state, mean_output):
            break
        out.append(next_token(state, first, count))
        state = push(state, out[-1])
    return out


if __name__ == "__main__":
    first_id, count_ids, length = map(int, sys.argv[1:4])
    print(*generate([int(t) for t in sys.argv[4:]], length, first_id, count_ids))
