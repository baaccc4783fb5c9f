/*
 * bench_train.c - positions a second of training a value model: forward, backward, clipping and AdamW, as peer_torch_train.py does
 * it.
 *
 *     bench_train [-t THREADS] [-r ROUNDS] [-l RANK] [-q TYPE] [-b] [-a] [-w DIR] MODEL LENGTHS
 *     bench_train -p
 *
 * LENGTHS: NxT, a batch of N sequences of T tokens; or a file of numbers, of which 8 after 8 make a batch.  -l: adapters of that
 * rank, alpha 16, on q, k, v and o of frozen weights.  -q: rounded to that type.
 * -b: products in BF16.  -a: activations are recomputed.  -w: writes the weights that training begins with, for the peer.
 * -p: prints "float32 bf16", or the one of them that this processor has, and trains nothing.
 * Prints positions a second over all rounds; how many multiplying allows, counting products with matrices alone; then the loss of each
 * round, that of the one before the first, which is not timed, included.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "learn/blas.h"
#include "learn/product.h"
#include "learn/trainer.h"
#include "limits.h"
#include "model/model.h"
#include "model/weights.h"

enum { ROUNDS_MAX = 1000, LENGTHS_MAX = 1 << 16, BATCH = 8, THREADS_MAX = 256 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* How long the sequences are; returns how many make a batch. */
static size_t lengths_read(const char *text, size_t length[LENGTHS_MAX], size_t *count)
{
    size_t N, T;
    *count = 0;
    if (sscanf(text, "%zux%zu", &N, &T) == 2 && N >= 1 && N <= LENGTHS_MAX) {
        for (; *count < N; ++*count)
            length[*count] = T;
        return N;
    }
    FILE *file = fopen(text, "r");
    while (file != NULL && *count < LENGTHS_MAX && fscanf(file, "%zu", &length[*count]) == 1)
        ++*count;
    if (*count < BATCH) {
        fprintf(stderr, "bench_train: \"%s\" is neither NxT nor a file of at least %d lengths\n", text, BATCH);
        exit(66);
    }
    fclose(file);
    return BATCH;
}

/* Sequence i: tokens and targets that depend on its number alone. */
static struct example example_make(size_t i, size_t T, size_t V)
{
    int32_t *tokens = memory_alloc(T, sizeof *tokens);
    float *target = memory_alloc(T, sizeof *target);
    for (size_t t = 0; t < T; t++) {
        tokens[t] = (int32_t)((i * 104729 + t * 7919) % V);
        target[t] = (float)((i * 31 + t) % 17) / 17.0f;
    }
    return (struct example){ .tokens = tokens, .T = T, .target = target };
}

/* model.safetensors in directory, and an adapter's files. */
static void weights_write(const struct trainer *trainer, bool adapted, const char *directory)
{
    struct buffer content = { 0 };
    trainer_save(trainer, false, NULL, &content);
    char *name = memory_printf("%s/model.safetensors", directory);
    CHECK(file_write(name, content.data, content.size) == 0);
    CHECK(!adapted || trainer_export_adapter(trainer, ".", directory) == 0);
    free(name);
    free(content.data);
}

/* Operations of the products with matrices for a position, a multiply and an add being 2: forward, and gradients of x and weights. */
static double operations_of(const struct model_config *config, const struct trainer_options *options)
{
    const double C = (double)config->channel_count, HS = (double)config->head_size, F = (double)config->ff_count;
    const double heads = 2.0 * (double)(config->head_count + config->kv_head_count);
    const double weights = (double)config->layer_count * C * (heads * HS + (config->plain_ff ? 2.0 : 3.0) * F);
    return weights * 2.0 * (2.0 + (options->lora.rank > 0 ? 0.0 : 1.0) + (options->recompute ? 1.0 : 0.0));
}

int main(int argc, char **argv)
{
    static size_t length[LENGTHS_MAX];
    static struct example examples[LENGTHS_MAX];
    struct trainer_options options = trainer_defaults(OBJECTIVE_VALUE);
    size_t threads = 2, rounds = 5, count;
    const char *written = NULL;
    int code;
    blas_settle(argv);
    for (int option; (option = getopt(argc, argv, "t:r:l:q:baw:p")) != -1; ) {
        switch (option) {
        case 't': threads = strtoul(optarg, NULL, 10); break;
        case 'r': rounds = strtoul(optarg, NULL, 10); break;
        case 'l': options.lora.rank = strtol(optarg, NULL, 10); break;
        case 'q':
            options.lora.base_type = model_quant_from_name(optarg);
            if (options.lora.base_type == TENSOR_TYPE_COUNT)
                return 64;
            break;
        case 'a': options.recompute = true; break;
        case 'b': options.products = PRODUCTS_BF16; break;
        case 'w': written = optarg; break;
        case 'p': puts(product_kernels_get(PRODUCTS_BF16) != NULL ? "float32 bf16" : "float32"); return 0;
        default: return 64;
        }
    }
    if (optind + 2 != argc || threads == 0 || threads > THREADS_MAX || rounds == 0 || rounds > ROUNDS_MAX
        || lora_targets_read("q,k,v,o", &options.lora.targets) != 0) {
        fprintf(stderr, "usage: bench_train [-t THREADS] [-r ROUNDS] [-l RANK] [-q TYPE] [-b] [-a] [-w DIR] MODEL NxT|FILE\n"
                        "       bench_train -p\n");
        return 64;
    }
    options.learning_rate = 1e-4;
    options.warmup_steps = 0;
    options.lora.alpha = 16.0;
    options.lora.base_key = "";
    log_open("bench_train", 0);
    const size_t batch = lengths_read(argv[optind + 1], length, &count);
    struct model_config config;
    struct weights *weights = weights_open(argv[optind], &code);
    if (weights == NULL || (code = config_open(&config, argv[optind])) != 0)
        return code;
    for (size_t i = 0; i < count; i++)
        examples[i] = example_make(i, length[i], (size_t)config.vocab_size);
    struct pool *pool = pool_open(threads);
    struct trainer *trainer = trainer_open(&options, &config, weights, NULL, pool, &code);
    if (trainer == NULL)
        return code;

    if (written != NULL)
        weights_write(trainer, options.lora.rank > 0, written);
    double (*const limit)(void) = options.products == PRODUCTS_BF16 ? limit_amx_bf16 : limit_fma;
    double losses[ROUNDS_MAX + 1], took = 0.0, positions = 0.0, before = limit_of_pool(pool, limit);
    for (size_t round = 0, first = 0; round <= rounds; round++, first += batch) {
        if (first + batch > count)
            first = 0;
        struct step_metrics metrics;
        const double start = seconds();
        CHECK(trainer_step(trainer, examples + first, batch, &metrics) == 0);
        losses[round] = metrics.loss;
        if (round == 0)
            continue;  // touches memory for the first time
        took += seconds() - start;
        positions += (double)metrics.tokens;
    }
    const double after = limit_of_pool(pool, limit);
    printf("%.2f %.2f", positions / took, (after > before ? after : before) / operations_of(&config, &options));
    for (size_t round = 0; round <= rounds; round++)
        printf(" %.8g", losses[round]);
    printf("\n");
    peak_print("bench_train");
    trainer_close(trainer);
    weights_close(weights);
    pool_close(pool);
    return 0;
}
