/*
 * bench_model.c - tokens a second of a model's forward pass with its logits, in the shapes in which the stages run it.
 *
 *     bench_model [-c] [-t THREADS] [-r ROUNDS] [-d DEPTH] MODEL [WHAT...]
 *
 * WHAT: pN prefill of N tokens; gB one more token of B independent sequences; fB the same of B sequences that share their first 256
 * positions; cK K candidates of one sequence.  Sequences begin DEPTH tokens long (32).  Prints the best and the median of the
 * rounds.  "limits" measures what the processor reads and multiplies; at the end lines of "limit WHAT" say what the best of these
 * would allow where every matrix is read and multiplied once and nothing else takes time.
 * -c counts the threads' processor time, on the average, and not time on the clock: for machines with other work.
 */
#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "limits.h"
#include "model/model.h"
#include "model/network.h"

enum {
    ROUNDS_MAX = 1000,
    READ_BYTES = 256 << 20,  // by each thread
    LOGITS_ROWS_MAX = 256,
    TOKENS = MODEL_ROWS_MAX,  // that are read, and again from the first
};

static clockid_t clock_used = CLOCK_MONOTONIC;
static size_t threads = 1;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(clock_used, &now);
    return ((double)now.tv_sec + 1e-9 * (double)now.tv_nsec) / (clock_used == CLOCK_MONOTONIC ? 1.0 : (double)threads);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench {
    const struct model *model;
    struct pool *pool;
    size_t C, V, rounds, depth;
    double read_most, multiply_most[TENSOR_TYPE_COUNT];  // bytes/s, operations/s
    float *hidden, *logits;
    int32_t *tokens;
};

static void print(const char *what, double *rates, size_t count)
{
    qsort(rates, count, sizeof *rates, compare);
    printf("%s %.2f %.2f\n", what, rates[count - 1], rates[count / 2]);
    fflush(stdout);
}

static void read_share(void *context, size_t task, size_t thread)
{
    (void)thread;
    limit_read((const char *)context + task * READ_BYTES, READ_BYTES);
}

/* N of a WHAT; 0: it is none. */
static size_t rows_of(const char *what)
{
    char *end;
    size_t n = strchr("pgfc", what[0]) != NULL && isdigit((unsigned char)what[1]) ? strtoul(what + 1, &end, 10) : 0;
    return n > 0 && *end == '\0' && n <= (what[0] == 'p' || what[0] == 'c' ? MODEL_ROWS_MAX : LOGITS_ROWS_MAX) ? n : 0;
}

/* ---- what the processor allows ---- */

static const struct packed *head(const struct model *model)
{
    return model->lm_head.data != NULL ? &model->lm_head : &model->embedding;
}

/* In the order of enum linear_name. */
static void linears_of(const struct model *model, int64_t l, const struct linear *linears[LINEAR_COUNT])
{
    const struct layer *layer = &model->layers[l];
    const struct linear *all[LINEAR_COUNT] = { &layer->qkv, &layer->o, &layer->gate, &layer->up, &layer->down };
    memcpy(linears, all, sizeof all);
}

static void measure_limits(struct bench *bench)
{
    size_t all = pool_threads(bench->pool) * READ_BYTES;
    char *data = memory_alloc_aligned(all, 1);
    memset(data, 1, all);
    for (size_t round = 0; round < bench->rounds; round++) {
        double start = seconds();
        pool_run(bench->pool, pool_threads(bench->pool), read_share, data);
        bench->read_most = fmax(bench->read_most, (double)all / (seconds() - start));
    }
    free(data);
    bool used[TENSOR_TYPE_COUNT] = { false };
    used[head(bench->model)->type] = true;
    for (int64_t l = 0; l < model_config(bench->model)->layer_count; l++) {
        const struct linear *linears[LINEAR_COUNT];
        linears_of(bench->model, l, linears);
        for (size_t i = 0; i < LINEAR_COUNT; i++)
            for (size_t part = 0; part < linears[i]->part_count; part++)
                used[linears[i]->parts[part].type] = true;
    }
    for (enum tensor_type type = 0; type < TENSOR_TYPE_COUNT; type++)
        if (used[type])
            bench->multiply_most[type] = fmax(bench->multiply_most[type], limit_multiply(bench->pool, type));
}

/* What a pass takes at least. */
struct cost {
    double bytes, multiply_s;
};

static void cost_add(struct cost *cost, const struct bench *bench, const struct packed *w, size_t rows)
{
    cost->bytes += (double)(packed_panels(w) * w->panel_bytes);
    if (bench->multiply_most[w->type] > 0)
        cost->multiply_s += 2.0 * (double)(w->N * w->K * rows) / bench->multiply_most[w->type];
}

static void print_allowed(const struct bench *bench, const char *what)
{
    size_t n = rows_of(what);
    struct cost cost = { 0 };
    for (int64_t l = 0; l < model_config(bench->model)->layer_count; l++) {
        const struct linear *linears[LINEAR_COUNT];
        linears_of(bench->model, l, linears);
        for (size_t i = 0; i < LINEAR_COUNT; i++)
            for (size_t part = 0; part < linears[i]->part_count; part++)
                cost_add(&cost, bench, &linears[i]->parts[part], n);
    }
    if (what[0] != 'c')
        cost_add(&cost, bench, head(bench->model), what[0] == 'p' ? 1 : n);
    printf("limit %s %.2f\n", what, (double)n / fmax(cost.bytes / bench->read_most, cost.multiply_s));
}

/* ---- what it takes ---- */

/* A sequence of T tokens. */
static int32_t begin(const struct bench *bench, struct cache *cache, size_t T)
{
    int32_t sequence = sequence_open(cache);
    if (T > 0)
        model_extend(bench->model, cache, sequence, bench->tokens, T, NULL, NULL);
    return sequence;
}

static size_t depth_of(const struct bench *bench, const char *what)
{
    return what[0] == 'f' ? 256 : bench->depth;
}

/* How many positions a sequence of it reaches: each round, and one that is not timed, adds one. */
static size_t positions_of(const struct bench *bench, const char *what)
{
    return what[0] == 'p' ? rows_of(what) : depth_of(bench, what) + bench->rounds + 1;
}

static void measure(const struct bench *bench, const char *what)
{
    size_t n = rows_of(what), depth = depth_of(bench, what), timed = 0;
    double taken[ROUNDS_MAX];
    struct cache *cache = cache_open(bench->model, (n + 2) * (depth + bench->rounds + 64));
    int32_t sequence[MODEL_ROWS_MAX];
    struct row rows[MODEL_ROWS_MAX];
    if (what[0] == 'p') {
        for (size_t round = 0; round < bench->rounds; round++) {
            double start = seconds();
            sequence[0] = sequence_open(cache);
            model_extend(bench->model, cache, sequence[0], bench->tokens, n, NULL, bench->hidden);
            model_logits(bench->model, bench->hidden, 1, bench->logits);
            taken[timed++] = seconds() - start;
            sequence_close(cache, sequence[0]);
        }
    } else {
        int32_t first = begin(bench, cache, depth);
        for (size_t i = 0; i < n; i++)
            sequence[i] = what[0] == 'c' ? first : what[0] == 'f' ? sequence_fork(cache, first) : begin(bench, cache, depth);
        for (size_t round = 0; round <= bench->rounds; round++) {
            for (size_t i = 0; i < n; i++)
                rows[i] = (struct row){ sequence[i], bench->tokens[(round + i) % TOKENS], ROW_CACHED };
            double start = seconds();
            model_forward(bench->model, cache, rows, n, bench->hidden);
            if (what[0] != 'c')
                model_logits(bench->model, bench->hidden, n, bench->logits);
            for (size_t i = 0; i < (what[0] == 'c' ? 1 : n); i++)
                row_keep(cache, i);
            if (round > 0)
                taken[timed++] = seconds() - start;
        }
    }
    cache_close(cache);
    for (size_t i = 0; i < timed; i++)
        taken[i] = (double)n / taken[i];
    print(what, taken, timed);
}

int main(int argc, char **argv)
{
    int code;
    struct bench bench = { .rounds = 16, .depth = 32 };
    for (int option; (option = getopt(argc, argv, "ct:r:d:")) != -1; ) {
        switch (option) {
        case 'c': clock_used = CLOCK_PROCESS_CPUTIME_ID; break;
        case 't': threads = strtoul(optarg, NULL, 10); break;
        case 'r': bench.rounds = strtoul(optarg, NULL, 10); break;
        case 'd': bench.depth = strtoul(optarg, NULL, 10); break;
        default: return 64;
        }
    }
    if (optind == argc || threads == 0 || bench.rounds == 0 || bench.rounds > ROUNDS_MAX || bench.depth > TOKENS) {
        fprintf(stderr, "usage: bench_model [-c] [-t THREADS] [-r ROUNDS] [-d DEPTH] MODEL [pN|gB|fB|cK|limits...]\n");
        return 64;
    }
    log_open("bench_model", 0);
    for (int i = optind + 1; i < argc; i++) {
        if (strcmp(argv[i], "limits") != 0 && rows_of(argv[i]) == 0) {
            log_error("\"%s\" is none of limits, p or c with 1 to %d, g or f with 1 to %d", argv[i], MODEL_ROWS_MAX,
                      LOGITS_ROWS_MAX);
            return 64;
        }
    }
    struct pool *pool = pool_open(threads);
    double start = seconds();
    struct model *model = model_open(argv[optind], pool, &code);
    if (model == NULL)
        return code;
    printf("load_s %.2f\n", seconds() - start);
    size_t position_max = (size_t)model_config(model)->position_max;
    for (int i = optind + 1; i < argc; i++) {
        if (strcmp(argv[i], "limits") != 0 && positions_of(&bench, argv[i]) > position_max) {
            log_error("%s takes %zu positions, model \"%s\" has %zu", argv[i], positions_of(&bench, argv[i]), argv[optind],
                      position_max);
            return 64;
        }
    }
    bench.model = model;
    bench.pool = pool;
    bench.C = (size_t)model_config(model)->channel_count;
    bench.V = (size_t)model_config(model)->vocab_size;
    bench.hidden = memory_alloc_aligned(MODEL_ROWS_MAX * bench.C, sizeof(float));
    bench.logits = memory_alloc_aligned(LOGITS_ROWS_MAX * bench.V, sizeof(float));
    bench.tokens = memory_alloc(TOKENS, sizeof *bench.tokens);
    for (size_t i = 0; i < TOKENS; i++)
        bench.tokens[i] = (int32_t)(i * 7919 % bench.V);
    for (int i = optind + 1; i < argc; i++) {
        if (strcmp(argv[i], "limits") == 0)
            measure_limits(&bench);
        else
            measure(&bench, argv[i]);
    }
    for (int i = optind + 1; i < argc && bench.read_most > 0; i++)
        if (strcmp(argv[i], "limits") != 0)
            print_allowed(&bench, argv[i]);
    free(bench.tokens);
    free(bench.logits);
    free(bench.hidden);
    model_close(model);
    pool_close(pool);
    return 0;
}
