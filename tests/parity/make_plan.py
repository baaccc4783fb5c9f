"""The order of a run's rollouts after schemas/README.md, "The plan of a run", written without looking at plan.c.

Philox4x32-10 as in Salmon et al. 2011; prints the numbers that tests/unit/test_store.c expects.  Python only.
"""

MASK = 0xFFFFFFFF


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def uniform(seed, stream, position):
    use_shuffle = 3
    words = philox([position, use_shuffle << 29, stream & MASK, stream >> 32], [seed & MASK, seed >> 32])
    return ((words[0] << 32 | words[1]) >> 11) * 2.0 ** -53


def shuffle(count, seed, stream):
    order = list(range(count))
    for i in range(count - 1, 0, -1):
        j = int(uniform(seed, stream, i) * (i + 1))
        order[i], order[j] = order[j], order[i]
    return order


def epoch_order(windows, seed, epoch):
    """windows: rollouts in each window of 64 prompts."""
    if epoch > 0:
        return shuffle(sum(windows), seed, epoch << 32)
    order, start = [], 0
    for window, count in enumerate(windows):
        order += [start + i for i in shuffle(count, seed, window)]
        start += count
    return order


# 66 prompts of 2 samples: windows of 128 and 4 rollouts.
for epoch in (0, 1):
    order = epoch_order([128, 4], 42, epoch)
    print("epoch", epoch, "first 8:", order[:8], "last 6:", order[-6:])
