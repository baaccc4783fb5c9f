/* test_desk.c - the store's side of conversations, every kind of worker played frame by frame under a clock of our own. */
#include <stdlib.h>
#include <unistd.h>

#include "../check.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "store/checkpoint.h"
#include "store/db.h"
#include "store/desk.h"
#include "store/put.h"
#include "store/rate.h"
#include "store/read.h"
#include "store/shared.h"
#include "store/status.h"
#include "wire/frame.h"

/* ---- a desk with workers named by one letter ---- */

static char directory[64];
static struct db *db;
static struct desk *desk;
static double now_s;
static struct arena arena;

static void open_desk(void)
{
    char path[96];
    int code;
    test_directory(directory, sizeof directory);
    snprintf(path, sizeof path, "%s/s.db", directory);
    db = db_open(path, DB_SERVE, &code);
    desk = desk_open(db, &(struct desk_options){ .silent_s = 15, .lease_s = 60, .keep_weights = CHECKPOINT_KEEP_WEIGHTS });
    now_s = 1000;
    arena_init(&arena, "test", 1 << 26);
}

static void close_desk(void)
{
    char command[96];
    desk_close(desk);
    db_close(db);
    arena_free(&arena);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0)
        abort();
}

/* As after a kill: what was not committed is gone. */
static void restart_desk(void)
{
    char path[96];
    int code;
    desk_close(desk);
    db_close(db);
    snprintf(path, sizeof path, "%s/s.db", directory);
    db = db_open(path, DB_SERVE, &code);
    desk = desk_open(db, &(struct desk_options){ .silent_s = 15, .lease_s = 60, .keep_weights = CHECKPOINT_KEEP_WEIGHTS });
}

static void say(char worker, const struct frame *frame)
{
    struct buffer buffer = { 0 };
    frame_encode(frame, &buffer);
    desk_take(desk, &worker, 1, buffer.data, buffer.size, now_s);
    free(buffer.data);
}

/* Replies of the last turn, by worker. */
static struct frame replies[4096];
static char reply_to[4096];
static size_t reply_count;

static void turn(void)
{
    EXPECT_INT(desk_commit(desk, now_s), DESK_FINE);
    EXPECT_INT(desk_turn(desk, now_s), DESK_FINE);
    reply_count = 0;
    for (size_t i = 0; i < desk_parcel_count(desk) && i < COUNT_OF(replies); i++) {
        struct parcel parcel = desk_parcel(desk, i);
        char reason[512];
        reply_to[reply_count] = *(const char *)parcel.peer;
        EXPECT_INT(frame_decode(&replies[reply_count++], parcel.data, parcel.size, &arena, reason), 0);
    }
    desk_sent(desk);
    now_s += 0.5;
}

static size_t count_replies(char worker, enum frame_type type)
{
    size_t count = 0;
    for (size_t i = 0; i < reply_count; i++)
        count += reply_to[i] == worker && replies[i].type == type;
    return count;
}

/* The n-th reply of this type to this worker; an empty one, and a failed test, when there are fewer. */
static struct frame *reply(char worker, enum frame_type type, size_t n)
{
    static struct frame none;
    for (size_t i = 0; i < reply_count; i++)
        if (reply_to[i] == worker && replies[i].type == type && n-- == 0)
            return &replies[i];
    TEST_FAIL("worker %c got no %s frame", worker, frame_type_name(type));
    none = frame_make(type);
    return &none;
}

static void hello(char worker, const char *stage, const char *settings)
{
    struct frame frame = frame_make(FRAME_hello);
    char name[] = { worker, '\0' };
    frame.hello.stage = stage;
    frame.hello.worker = name;
    frame.hello.settings = settings;
    say(worker, &frame);
}

static void want(char worker, int64_t count)
{
    struct frame frame = frame_make(FRAME_want);
    frame.want.count = count;
    say(worker, &frame);
}

static void plain(char worker, enum frame_type type)
{
    struct frame frame = frame_make(type);
    say(worker, &frame);
}

static void fail(char worker, int64_t item)
{
    struct frame frame = frame_make(FRAME_failed);
    frame.failed.item = item;
    frame.failed.reason = "does not fit";
    say(worker, &frame);
}

static const int32_t tokens[] = { 1, 2, 3 };
static const float targets[] = { 1, 1, 1, 1 };

static void give_prompt(char worker, const char *key, int64_t output)
{
    struct frame frame = frame_make(FRAME_prompt);
    frame.prompt.prompt_key = key;
    frame.prompt.tokenizer = "T";
    frame.prompt.split = "train";
    frame.prompt.prompt = key;
    frame.prompt.prompt_tokens = (struct tokens){ tokens, 3 };
    frame.prompt.output = output;
    say(worker, &frame);
}

/* As a rollout worker: answers a prompt frame; as others do: hands on what it was given and adds its own. */
static void answer(char worker, const struct frame *item, enum frame_type type, int64_t output)
{
    struct frame frame = *item;
    frame.type = type;
    if (type == FRAME_rollout) {
        frame.rollout.policy = "base";
        frame.rollout.response = "yes";
        frame.rollout.response_tokens = (struct tokens){ tokens, 3 };
        frame.rollout.logprobs = (struct floats){ NULL, 0 };
        frame.rollout.stopped = 1;
        frame.rollout.kl = NAN;
    } else if (type == FRAME_scored) {
        frame.scored.reward = "w";
        frame.scored.score = 0.5;
        frame.scored.run = "";
        frame.scored.batch = frame.scored.step = -1;
        frame.scored.batch_size = frame.scored.batches = 0;
    } else {
        frame.target.state_tokenizer = "";
        frame.target.values = (struct floats){ targets, 4 };
        frame.target.targets = (struct floats){ targets, 4 };
    }
    *frame_output(&frame) = output;
    say(worker, &frame);
}

static void give_checkpoint(char worker, const char *kind, int64_t step, int64_t batch, bool final, int64_t output)
{
    struct frame frame = frame_make(FRAME_checkpoint);
    struct digest digest;
    char hex[DIGEST_HEX_SIZE];
    digest_init(&digest);
    digest_add(&digest, "content", 7);
    digest_hex(&digest, hex);
    frame.checkpoint.run = "r";
    frame.checkpoint.kind = kind;
    frame.checkpoint.step = step;
    frame.checkpoint.batch = batch;
    frame.checkpoint.sha256 = hex;
    frame.checkpoint.size = 7;
    frame.checkpoint.data = (struct bytes){ (const unsigned char *)"content", 7 };
    frame.checkpoint.final = final;
    frame.checkpoint.output = output;
    say(worker, &frame);
}

#define BASE "{\"policy\": \"base\", \"spec\": {\"tokenizer\": \"T\", \"temperature\": 1}, \"samples\": 2, \"split\": \"train\"}"
#define REWARD "{\"reward\": \"w\", \"spec\": {\"kind\": \"test\"}}"
#define TARGET \
    "{\"run\": \"r\", \"target\": {\"reward\": \"w\", \"policy\": \"base\", \"split\": \"train\"," \
    " \"lambda\": 0.95, \"gamma\": 1, \"refresh\": 1}}"
#define TRAIN "{\"run\": \"r\", \"train\": {\"batch\": 2, \"epochs\": 1, \"updates\": 2, \"refresh\": 1, \"seed\": 7}}"

static void store_prompts(int count)
{
    hello('t', "tokenize", "{\"tokenizer\": \"T\"}");
    for (int i = 0; i < count; i++)
        give_prompt('t', (char[]){ (char)('a' + i), '\0' }, i + 1);
    plain('t', FRAME_bye);
    turn();
}

/* Two prompts, whose samples are all handed to a rollout. */
static void begin_rollouts(char worker, struct frame items[4])
{
    store_prompts(2);
    hello(worker, "rollout", BASE);
    want(worker, 4);
    turn();
    for (size_t i = 0; i < 4; i++)
        items[i] = *reply(worker, FRAME_prompt, i);
}

/* ---- conversations ---- */

/* Goal: hello is welcomed, outputs are acknowledged after the commit, a duplicate too. */
static void test_hello_and_acks(void)
{
    open_desk();
    hello('t', "tokenize", "{\"tokenizer\": \"T\"}");
    give_prompt('t', "a", 1);
    give_prompt('t', "b", 2);
    give_prompt('t', "a", 3);
    turn();
    EXPECT_INT(count_replies('t', FRAME_welcome), 1);
    struct frame *ack = reply('t', FRAME_ack, 0);
    EXPECT_INT(ack->ack.outputs.count, 3);
    EXPECT(ack->ack.outputs.count == 3 && ack->ack.outputs.at[2] == 3);
    EXPECT_INT(desk_count(desk).duplicates, 1);
    close_desk();
}

static void beat_effort(char worker, int64_t compute_ms, int64_t wait_ms)
{
    struct frame frame = frame_make(FRAME_beat);
    frame.beat.compute_ms = compute_ms;
    frame.beat.wait_ms = wait_ms;
    say(worker, &frame);
}

/* Goal: what workers say of their time adds up by stage and name, once, however they end, and by itself causes no transaction. */
static void test_effort_adds_up(void)
{
    open_desk();
    store_prompts(1);
    hello('p', "rollout", BASE);
    hello('q', "rollout", BASE);
    turn();
    beat_effort('p', 1000, 500);
    EXPECT(!db_writing(db));
    turn();
    want('p', 1);
    turn();
    answer('p', reply('p', FRAME_prompt, 0), FRAME_rollout, 1);
    beat_effort('p', 200, 0);
    turn();
    beat_effort('q', 30, 7);
    struct frame bye = frame_make(FRAME_bye);
    bye.bye.wire_ms = 5;
    bye.bye.other_ms = 3;
    say('q', &bye);
    hello('r', "rollout", BASE);
    beat_effort('r', 400, 0);
    hello('r', "rollout", BASE);  // again: the conversation ends, its time stays
    beat_effort('r', 600, 0);
    turn();
    for (int silent = 0; silent < 200; silent++)
        turn();
    struct read *rows = read_efforts(db);
    struct read_effort effort;
    EXPECT(read_effort_next(rows, &effort));
    EXPECT_TEXT(effort.stage, "rollout");
    EXPECT_TEXT(effort.name, "base");
    EXPECT_NEAR(effort.seconds[EFFORT_COMPUTE], 2.23, 1e-9);
    EXPECT_NEAR(effort.seconds[EFFORT_WAIT], 0.507, 1e-9);
    EXPECT_NEAR(effort.seconds[EFFORT_WIRE], 0.005, 1e-9);
    EXPECT_NEAR(effort.seconds[EFFORT_OTHER], 0.003, 1e-9);
    EXPECT(!read_effort_next(rows, &effort));
    EXPECT_INT(read_end(rows), 0);
    close_desk();
}

static json_t *status_line(const json_t *status, const char *list, size_t i)
{
    return json_array_get(json_object_get(status, list), i);
}

static int64_t status_int(const json_t *line, const char *name)
{
    return json_integer_value(json_object_get(line, name));
}

/* Goal: a status that no frame has room for is sent without its longest lists, and ends nothing. */
static void test_long_status(void)
{
    open_desk();
    EXPECT_INT(db_run(db, db_query(db, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)"
                                       " INSERT INTO reward (name, spec) SELECT printf('%0120d', i), '{}' FROM n", "")), 0);
    struct frame ask = frame_make(FRAME_ask);
    say('?', &ask);
    turn();
    json_t *status = json_loads(reply('?', FRAME_status, 0)->status.status, 0, NULL);
    EXPECT(status_is_sound(status));
    EXPECT_INT(json_array_size(json_object_get(status, "stages")), 0);
    json_decref(status);
    close_desk();
}

/* Goal: whoever asks is told what is handed out, to whom, and how fast it goes, and need not say hello for that. */
static void test_status(void)
{
    open_desk();
    store_prompts(6);
    hello('p', "rollout", BASE);
    hello('q', "rollout", BASE);
    want('p', 4);
    want('q', 1);
    turn();
    for (int i = 0; i < 3; i++)
        answer('p', reply('p', FRAME_prompt, (size_t)i), FRAME_rollout, i + 1);
    beat_effort('p', 900, 100);
    now_s += 3;
    struct frame ask = frame_make(FRAME_ask);
    say('?', &ask);
    turn();
    json_t *status = json_loads(reply('?', FRAME_status, 0)->status.status, 0, NULL);
    EXPECT(status_is_sound(status));
    const json_t *line = status_line(status, "stages", 1);
    EXPECT_TEXT(json_string_value(json_object_get(line, "stage")), "rollout");
    EXPECT_INT(status_int(line, "done"), 3);
    EXPECT_INT(status_int(line, "missing"), 9);
    EXPECT_INT(status_int(line, "leased"), 2);
    EXPECT_INT(status_int(line, "workers"), 2);
    EXPECT_NEAR(json_number_value(json_object_get(line, "per_s")), 3 / 3.5, 1e-9);
    EXPECT_NEAR(json_number_value(json_object_get(line, "left_s")), 9 / (3 / 3.5), 1e-9);
    line = status_line(status, "workers", 0);
    EXPECT_TEXT(json_string_value(json_object_get(line, "worker")), "p");
    EXPECT_INT(status_int(line, "held"), 1);
    EXPECT_INT(status_int(line, "outputs"), 3);
    EXPECT_NEAR(json_number_value(json_object_get(line, "silent_s")), 3, 1e-9);
    EXPECT_NEAR(json_number_value(json_object_get(status_line(status, "efforts", 0), "compute_s")), 0.9, 1e-9);
    json_decref(status);

    struct buffer text = { 0 };
    status = status_read(db, NULL, 0);
    status_print(&text, status);
    buffer_append(&text, "", 1);
    EXPECT(strstr(text.data, "\nno process that serves this store has answered") != NULL);
    json_decref(status);
    free(text.data);
    close_desk();
}

/* Goal: texts that workers give cannot steer the terminal of whoever asks. */
static void test_status_is_tame(void)
{
    struct buffer text = { 0 };
    json_t *status = json_pack("{s:s, s:b, s:[{s:s, s:s, s:I}], s:[], s:[], s:[{s:s, s:s, s:s}]}", "db", "s.db", "served", 0,
                               "stages", "stage",
                               "reward", "key", "w\x1b[2J", "failed", (json_int_t)12, "workers", "efforts", "failures", "stage",
                               "reward", "key", "w",
                               "reason", "one\ntwo \xc2\x9b");
    EXPECT(status_is_sound(status));
    status_print(&text, status);
    buffer_append(&text, "", 1);
    EXPECT(strpbrk(text.data, "\x1b\x9b") == NULL);
    EXPECT(strstr(text.data, "one?two ??\ngave up: 11 more\n") != NULL);
    json_decref(status);
    free(text.data);
    status = json_pack("{s:s, s:[{s:i, s:s}], s:[], s:[], s:[]}", "db", "s.db", "stages", "stage", 1, "key", "w", "workers",
                       "efforts", "failures");
    EXPECT(!status_is_sound(status));
    json_decref(status);
}

/* Goal: a rate is that of the last half minute, or of the last fifteen where they are rarer, and falls when nothing comes. */
static void test_rate(void)
{
    struct rate rate;
    rate_begin(&rate, 100);
    EXPECT_NEAR(rate_per_s(&rate, 100), 0, 0);
    for (int i = 1; i <= 1000; i++)
        rate_add(&rate, 2, 100 + 0.1 * i);
    EXPECT_NEAR(rate_per_s(&rate, 200), 20, 0.1);
    EXPECT_NEAR(rate_per_s(&rate, 230), 10, 0.7);
    for (int i = 1; i <= 20; i++)
        rate_add(&rate, 1, 200 + 60 * i);
    EXPECT_NEAR(rate_per_s(&rate, 1400), 1 / 60.0, 1e-9);
}

/* Goal: who has not said hello is a stranger, and nonsense is refused; neither ends anything. */
static void test_strangers_and_nonsense(void)
{
    open_desk();
    give_prompt('x', "a", 1);
    desk_take(desk, "y", 1, "nonsense", 8, now_s);
    hello('z', "cook", "{}");
    hello('q', "reward", "{\"reward\": \"\"}");
    turn();
    EXPECT_INT(count_replies('x', FRAME_stranger), 1);
    EXPECT_INT(count_replies('x', FRAME_ack), 0);
    EXPECT_INT(count_replies('y', FRAME_refusal), 1);
    struct frame *refusal = reply('z', FRAME_refusal, 0);
    EXPECT_INT(refusal->refusal.fatal, 1);
    EXPECT_TEXT(refusal->refusal.reason,
                "field \"stage\" is \"cook\", must be tokenize, rollout, reward, value-target, train, decode or fetch");
    EXPECT_TEXT(reply('q', FRAME_refusal, 0)->refusal.reason,
                "setting \"reward\" of stage \"reward\" must be a text of 1 to 128 bytes");
    close_desk();
}

/* Goal: a worker that means something else by a name is refused for good; the name keeps its meaning. */
static void test_pinning(void)
{
    open_desk();
    store_prompts(1);
    hello('a', "rollout", BASE);
    hello('b', "rollout", "{\"policy\": \"base\", \"spec\": {\"tokenizer\": \"T\", \"temperature\": 0.7}, \"samples\": 2,"
          " \"split\": \"train\"}");
    hello('c', "rollout", "{\"policy\": \"other\", \"spec\": {\"tokenizer\": \"U\"}, \"samples\": 2, \"split\": \"train\"}");
    turn();
    EXPECT_INT(count_replies('a', FRAME_welcome), 1);
    EXPECT_INT(reply('a', FRAME_welcome, 0)->welcome.missing, 2);
    struct frame *refusal = reply('b', FRAME_refusal, 0);
    EXPECT_INT(refusal->refusal.fatal, 1);
    EXPECT_TEXT(refusal->refusal.reason, "policy \"base\" has temperature 1, this worker has 0.7");
    EXPECT_TEXT(reply('c', FRAME_refusal, 0)->refusal.reason,
                "split \"train\" has prompts of tokenizer T, not of the tokenizer of policy \"other\"");
    close_desk();
}

/* Goal: what is cut short inside a character does not end the store: a refusal still says it. */
static void test_long_foreign_texts(void)
{
    struct buffer settings = { 0 };
    open_desk();
    store_prompts(1);
    hello('a', "rollout", BASE);
    buffer_printf(&settings, "{\"policy\": \"base\", \"spec\": {\"tokenizer\": \"T\", \"temperature\": 1, \"x\": \"");
    for (int i = 0; i < 100; i++)
        buffer_printf(&settings, "\u00e9");
    buffer_printf(&settings, "\"}, \"samples\": 2, \"split\": \"train\"}");
    buffer_append(&settings, "", 1);
    hello('b', "rollout", settings.data);
    turn();
    const char *reason = reply('b', FRAME_refusal, 0)->refusal.reason;
    EXPECT(strncmp(reason, "policy \"base\" has no x, this worker has \"\u00e9", 42) == 0);
    EXPECT(utf8_is_valid(reason, strlen(reason)));
    free(settings.data);
    close_desk();
}

/* Goal: a worker that only fetches finds shared models and reads their bytes, gets no work, and can store nothing. */
static void test_fetch_worker(void)
{
    char path[96];
    struct manifest manifest;
    open_desk();
    snprintf(path, sizeof path, "%s/model.gguf", directory);
    EXPECT_INT(file_write(path, "0123456789", 10), 0);
    EXPECT_INT(manifest_of_path(&manifest, path), 0);
    EXPECT_INT(share_model(db, "base", &manifest, (char *[]){ path }), 0);
    store_prompts(1);
    hello('f', "fetch", "{}");
    want('f', 4);
    struct frame find = frame_make(FRAME_find), read = frame_make(FRAME_read);
    find.find.model = "base";
    say('f', &find);
    find.find.model = "none";
    say('f', &find);
    read.read.sha256 = manifest.files[0].sha256;
    read.read.offset = 4;
    read.read.size = 3;
    say('f', &read);
    say('x', &read);
    give_prompt('f', "a", 1);
    turn();
    EXPECT_INT(count_replies('f', FRAME_welcome), 1);
    EXPECT_TEXT(reply('f', FRAME_model, 0)->model.model, "base");
    EXPECT(strstr(reply('f', FRAME_refusal, 1)->refusal.reason, "shares no model") != NULL);
    struct frame *piece = reply('f', FRAME_piece, 0);
    EXPECT_INT(piece->piece.offset, 4);
    EXPECT(piece->piece.data.size == 3 && memcmp(piece->piece.data.at, "456", 3) == 0);
    EXPECT_INT(count_replies('x', FRAME_stranger), 1);
    EXPECT_TEXT(reply('f', FRAME_refusal, 0)->refusal.reason, "stage \"fetch\" with these settings does not send prompt frames");
    EXPECT_INT(count_replies('f', FRAME_prompt), 0);
    manifest_free(&manifest);
    close_desk();
}

/* Goal: a worker that asks for more pieces than it reads is refused the rest,
   gets those that fit into a turn, and the others later. */
static void test_pieces_are_bounded(void)
{
    char path[96];
    struct manifest manifest;
    enum { SIZE = 1 << 20, READS = 1000 };
    open_desk();
    snprintf(path, sizeof path, "%s/model.gguf", directory);
    char *content = memory_alloc(SIZE, 1);
    EXPECT_INT(file_write(path, content, SIZE), 0);
    free(content);
    EXPECT_INT(manifest_of_path(&manifest, path), 0);
    EXPECT_INT(share_model(db, "base", &manifest, (char *[]){ path }), 0);
    hello('f', "fetch", "{}");
    struct frame read = frame_make(FRAME_read);
    read.read.sha256 = manifest.files[0].sha256;
    read.read.size = SIZE;
    for (int i = 0; i < READS; i++)
        say('f', &read);
    turn();
    size_t refused = count_replies('f', FRAME_refusal), given = count_replies('f', FRAME_piece), left = READS - refused - given;
    EXPECT(refused > 0 && left > 0);
    EXPECT_INT(given, 4);
    for (int turns = 0; turns < READS && left > 0; turns++) {
        arena_reset(&arena);
        turn();
        given = count_replies('f', FRAME_piece);
        EXPECT(given == 4 || given == left);
        left -= given;
    }
    EXPECT_INT(left, 0);
    manifest_free(&manifest);
    close_desk();
}

/* Goal: never more items than wanted; all samples of a prompt one after the other; nothing handed out twice. */
static void test_credit_and_order(void)
{
    open_desk();
    store_prompts(3);
    hello('a', "rollout", BASE);
    hello('b', "rollout", BASE);
    want('a', 3);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 3);
    EXPECT_TEXT(reply('a', FRAME_prompt, 0)->prompt.prompt_key, "a");
    EXPECT_TEXT(reply('a', FRAME_prompt, 1)->prompt.prompt_key, "a");
    EXPECT_INT(reply('a', FRAME_prompt, 1)->prompt.sample, 1);
    EXPECT_TEXT(reply('a', FRAME_prompt, 2)->prompt.prompt_key, "b");
    struct frame items[6];
    for (size_t i = 0; i < 3; i++)
        items[i] = *reply('a', FRAME_prompt, i);
    want('b', 100);
    turn();
    EXPECT_INT(count_replies('b', FRAME_prompt), 3);
    EXPECT_TEXT(reply('b', FRAME_prompt, 0)->prompt.prompt_key, "c");
    EXPECT_TEXT(reply('b', FRAME_prompt, 2)->prompt.prompt_key, "b");
    EXPECT_INT(reply('b', FRAME_prompt, 2)->prompt.sample, 1);
    struct frame *idle = reply('b', FRAME_idle, 0);
    EXPECT_INT(idle->idle.missing, 6);
    EXPECT_INT(idle->idle.final, 0);
    EXPECT_INT(count_replies('a', FRAME_idle), 0);  // no credit left

    /* All answered: idle again, with nothing missing. */
    for (size_t i = 0; i < 3; i++)
        items[3 + i] = *reply('b', FRAME_prompt, i);
    for (int i = 0; i < 6; i++)
        answer(i < 3 ? 'a' : 'b', &items[i], FRAME_rollout, i + 1);
    want('a', 3);
    turn();
    EXPECT_INT(reply('a', FRAME_ack, 0)->ack.outputs.count, 3);
    EXPECT_INT(reply('a', FRAME_idle, 0)->idle.missing, 0);
    EXPECT_INT(reply('b', FRAME_idle, 0)->idle.missing, 0);
    turn();
    EXPECT_INT(count_replies('b', FRAME_idle), 0);  // said once
    plain('b', FRAME_beat);
    turn();
    EXPECT_INT(count_replies('b', FRAME_beat), 1);
    EXPECT_INT(count_replies('b', FRAME_idle), 1);  // and after each beat
    close_desk();
}

/* Goal: samples of a prompt stay with the worker that has begun it, which runs the prompt once, while there are others to begin. */
static void test_samples_stay_together(void)
{
    static const char settings[] = "{\"policy\": \"base\", \"spec\": {\"tokenizer\": \"T\"}, \"samples\": 4, \"split\": \"train\"}";
    open_desk();
    store_prompts(3);
    hello('a', "rollout", settings);
    hello('b', "rollout", settings);
    want('a', 1);
    turn();
    EXPECT_TEXT(reply('a', FRAME_prompt, 0)->prompt.prompt_key, "a");
    want('b', 1);
    turn();
    EXPECT_TEXT(reply('b', FRAME_prompt, 0)->prompt.prompt_key, "b");
    want('b', 4);
    turn();
    for (int64_t i = 0; i < 4; i++) {
        EXPECT_TEXT(reply('b', FRAME_prompt, (size_t)i)->prompt.prompt_key, i < 3 ? "b" : "c");
        EXPECT_INT(reply('b', FRAME_prompt, (size_t)i)->prompt.sample, i < 3 ? i + 1 : 0);
    }
    want('b', 6);
    turn();
    EXPECT_INT(count_replies('b', FRAME_prompt), 6);
    EXPECT_TEXT(reply('b', FRAME_prompt, 2)->prompt.prompt_key, "c");
    EXPECT_TEXT(reply('b', FRAME_prompt, 3)->prompt.prompt_key, "a");  // nothing else is left
    close_desk();
}

/* Goal: the last items are shared by the room that workers have, so that none ends long before another; new ones still come. */
static void test_last_items_are_shared(void)
{
    open_desk();
    store_prompts(20);
    hello('a', "rollout", BASE);
    hello('b', "rollout", BASE);
    want('a', 64);
    want('b', 16);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 32);
    EXPECT_INT(count_replies('b', FRAME_prompt), 8);
    for (size_t i = 0; i < 8; i++)
        answer('b', reply('b', FRAME_prompt, i), FRAME_rollout, (int64_t)i + 1);
    turn();
    EXPECT_INT(count_replies('b', FRAME_prompt), 0);  // a holds the others
    hello('u', "tokenize", "{\"tokenizer\": \"T\"}");
    give_prompt('u', "z", 1);
    turn();
    EXPECT_INT(count_replies('b', FRAME_prompt), 2);
    close_desk();
}

/* Goal: they are shared also where the store finds in one look just all that there are. */
static void test_last_items_of_a_whole_look(void)
{
    enum { LOOK = 256, ROOM = 100, A_KEEPS = 20, B_KEEPS = 10 };
    struct frame items[2][ROOM];
    static const char settings[] = "{\"policy\": \"base\", \"spec\": {\"tokenizer\": \"T\"}, \"samples\": 128, \"split\": \"train\"}";
    open_desk();
    store_prompts(2);
    hello('a', "rollout", settings);
    hello('b', "rollout", settings);
    want('a', ROOM);
    want('b', ROOM);
    turn();
    for (size_t i = 0; i < ROOM; i++) {
        items[0][i] = *reply('a', FRAME_prompt, i);
        items[1][i] = *reply('b', FRAME_prompt, i);
    }
    for (size_t i = A_KEEPS; i < ROOM; i++)
        answer('a', &items[0][i], FRAME_rollout, (int64_t)i + 1);
    for (size_t i = B_KEEPS; i < ROOM; i++)
        answer('b', &items[1][i], FRAME_rollout, (int64_t)i + 1);
    want('a', ROOM - A_KEEPS);
    want('b', ROOM - B_KEEPS);
    turn();
    size_t each = (LOOK - 2 * ROOM + A_KEEPS + B_KEEPS) / 2;
    EXPECT_INT(count_replies('a', FRAME_prompt), each - A_KEEPS);
    EXPECT_INT(count_replies('b', FRAME_prompt), each - B_KEEPS);
    close_desk();
}

/* Goal: items of a worker that says bye, or hello again, are offered to others at once, and nothing is held against them. */
static void test_items_come_back(void)
{
    open_desk();
    store_prompts(1);
    hello('a', "rollout", BASE);
    want('a', 2);
    turn();
    int64_t lease = reply('a', FRAME_prompt, 0)->prompt.item;
    plain('a', FRAME_bye);
    hello('b', "rollout", BASE);
    want('b', 2);
    turn();
    EXPECT_INT(count_replies('b', FRAME_prompt), 2);
    EXPECT_INT(reply('b', FRAME_prompt, 0)->prompt.sample, 0);
    EXPECT(reply('b', FRAME_prompt, 0)->prompt.item != lease);
    hello('b', "rollout", BASE);
    want('b', 1);
    turn();
    EXPECT_INT(count_replies('b', FRAME_prompt), 1);
    close_desk();
}

/* As a worker that is back: says so, and names an item that it has. */
static void hello_again(char worker, const char *stage, const char *settings)
{
    struct frame frame = frame_make(FRAME_hello);
    frame.hello.stage = stage;
    frame.hello.worker = (char[]){ worker, '\0' };
    frame.hello.settings = settings;
    frame.hello.again = 1;
    say(worker, &frame);
}

static void hold(char worker, const struct frame *item)
{
    struct frame frame = frame_extended(FRAME_hold, item);
    say(worker, &frame);
}

/* Goal: what workers have when the store is restarted is leased to them again and handed to nobody else, whoever comes back first;
   its output or failure ends it, and what its worker leaves goes to others. */
static void test_held_items(void)
{
    open_desk();
    store_prompts(4);
    for (char worker = 'a'; worker <= 'b'; worker++) {
        hello(worker, "rollout", BASE);
        want(worker, 3);
    }
    turn();
    struct frame items[6];
    for (size_t i = 0; i < 6; i++)
        items[i] = *reply(i < 3 ? 'a' : 'b', FRAME_prompt, i % 3);
    restart_desk();
    hello_again('a', "rollout", BASE);
    turn();
    EXPECT_INT(reply('a', FRAME_welcome, 0)->welcome.holds, 1);
    for (size_t i = 0; i < 3; i++)
        hold('a', &items[i]);
    hold('a', &items[0]);  // again
    want('a', 8);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 0);
    EXPECT(reply('a', FRAME_idle, 0)->idle.missing > 0);
    EXPECT_INT(desk_count(desk).leased, 3);
    hello_again('b', "rollout", BASE);
    hold('b', &items[0]);  // which is with another
    for (size_t i = 3; i < 6; i++)
        hold('b', &items[i]);
    turn();
    EXPECT_INT(desk_count(desk).leased, 6);
    now_s += 3;
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 2);  // what nobody had
    answer('a', &items[0], FRAME_rollout, 1);
    fail('b', items[3].prompt.item);
    turn();
    EXPECT_INT(count_replies('a', FRAME_ack), 1);
    EXPECT_INT(count_replies('a', FRAME_prompt), 1);
    EXPECT_TEXT(reply('a', FRAME_prompt, 0)->prompt.prompt_key, items[3].prompt.prompt_key);
    EXPECT_INT(desk_count(desk).leased, 7);
    plain('b', FRAME_bye);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 2);
    close_desk();
}

/* Goal: a worker that is back after its connection broke keeps what it has, and nothing is held against it. */
static void test_held_over_a_broken_link(void)
{
    open_desk();
    store_prompts(1);
    hello('a', "rollout", BASE);
    want('a', 2);
    turn();
    struct frame items[2] = { *reply('a', FRAME_prompt, 0), *reply('a', FRAME_prompt, 1) };
    now_s += 10;
    desk_unreachable(desk, "a", 1, now_s);
    hello_again('a', "rollout", BASE);
    hello('b', "rollout", BASE);
    hold('a', &items[0]);
    hold('a', &items[1]);
    want('b', 2);
    turn();
    EXPECT_INT(count_replies('b', FRAME_prompt), 0);
    answer('a', &items[0], FRAME_rollout, 1);
    answer('a', &items[1], FRAME_rollout, 2);
    turn();
    EXPECT_INT(reply('b', FRAME_idle, 0)->idle.missing, 0);
    EXPECT_INT(desk_count(desk).leased, 0);
    EXPECT_INT(desk_count(desk).duplicates, 0);
    close_desk();
}

/* Goal: items that are stored, unknown, of another split, or in no place of theirs are not held, and nothing waits for them. */
static void test_held_in_vain(void)
{
    open_desk();
    struct frame items[4];
    begin_rollouts('a', items);
    answer('a', &items[0], FRAME_rollout, 1);
    turn();
    restart_desk();
    hello('a', "rollout", BASE);
    hello('w', "reward", REWARD);
    hello('f', "fetch", "{}");
    hold('a', &items[0]);
    items[1].prompt.prompt_key = "z";
    hold('a', &items[1]);
    items[2].prompt.sample = 2;
    hold('a', &items[2]);
    items[3].prompt.sample = -1;
    hold('a', &items[3]);
    hold('w', &items[0]);  // names no rollout
    hold('f', &items[0]);
    turn();
    EXPECT_INT(desk_count(desk).leased, 0);
    EXPECT_INT(desk_count(desk).refused, 0);
    want('a', 4);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 3);
    answer('a', &items[0], FRAME_rollout, 1);  // had, without a lease
    turn();
    EXPECT_INT(reply('a', FRAME_ack, 0)->ack.outputs.count, 1);
    close_desk();
}

/* Goal: a silent worker's items go to others after 15 s; when it speaks again it was only slow, and its output counts. */
static void test_silence(void)
{
    open_desk();
    store_prompts(1);
    hello('a', "rollout", BASE);
    want('a', 2);
    turn();
    struct frame item = *reply('a', FRAME_prompt, 0);
    hello('b', "rollout", BASE);
    want('b', 2);
    turn();
    EXPECT_INT(count_replies('b', FRAME_prompt), 0);
    for (double end_s = now_s + 13; now_s < end_s; ) {
        plain('b', FRAME_beat);
        turn();
        EXPECT_INT(count_replies('b', FRAME_prompt), 0);
    }
    EXPECT(count_replies('a', FRAME_beat) <= 1);  // it is asked for a sign of life every 2 s
    for (int i = 0; i < 5; i++) {
        plain('b', FRAME_beat);
        turn();
        if (count_replies('b', FRAME_prompt) > 0)
            break;
    }
    EXPECT_INT(count_replies('b', FRAME_prompt), 2);
    answer('a', &item, FRAME_rollout, 1);
    turn();
    EXPECT_INT(count_replies('a', FRAME_ack), 1);
    close_desk();
}

/* Goal: an item whose worker vanishes four times is given up with a reason; the last two times it is alone,
   so what was held beside it is not condemned. */
static void test_deadly_item(void)
{
    open_desk();
    store_prompts(1);
    for (int death = 0; death < 4; death++) {
        char worker = (char)('a' + death);
        hello(worker, "rollout", BASE);
        want(worker, 2);
        turn();
        /* Both are held the first two times, then one at a time. */
        EXPECT_INT(count_replies(worker, FRAME_prompt), death < 2 ? 2 : 1);
        if (death >= 2)
            EXPECT_INT(reply(worker, FRAME_prompt, 0)->prompt.sample, 0);
        desk_unreachable(desk, &worker, 1, now_s);
    }
    hello('e', "rollout", BASE);
    want('e', 2);
    turn();
    EXPECT_INT(count_replies('e', FRAME_prompt), 1);
    struct frame item = *reply('e', FRAME_prompt, 0);
    EXPECT_INT(item.prompt.sample, 1);
    answer('e', &item, FRAME_rollout, 1);
    want('e', 1);
    turn();
    EXPECT_INT(reply('e', FRAME_idle, 0)->idle.missing, 0);
    EXPECT_INT(db_int(db, db_query(db, "SELECT attempts FROM failure WHERE reason LIKE 'its worker vanished%'", ""), 0), 4);
    close_desk();
}

/* Goal: a worker whose connection broke was only slow: when it is back under its name nothing is held against its items. */
static void test_pardon(void)
{
    open_desk();
    store_prompts(1);
    for (int i = 0; i < 6; i++) {
        hello('a', "rollout", BASE);
        want('a', 2);
        turn();
        EXPECT_INT(count_replies('a', FRAME_prompt), 2);
        desk_unreachable(desk, "a", 1, now_s);
    }
    EXPECT_INT(db_int(db, db_query(db, "SELECT count(*) FROM failure", ""), -1), 0);
    close_desk();
}

/* Goal: a worker to which frames were lost is told to begin anew, so that it does not wait for them; then it is pardoned. */
static void test_lost_frames(void)
{
    open_desk();
    store_prompts(1);
    hello('a', "rollout", BASE);
    want('a', 2);
    turn();
    struct frame item = *reply('a', FRAME_prompt, 0);
    desk_unreachable(desk, "a", 1, now_s);
    answer('a', &item, FRAME_rollout, 1);
    turn();
    EXPECT_INT(count_replies('a', FRAME_stranger), 1);
    EXPECT_INT(count_replies('a', FRAME_ack), 0);
    hello('a', "rollout", BASE);
    want('a', 2);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 2);
    EXPECT_INT(db_int(db, db_query(db, "SELECT count(*) FROM failure", ""), -1), 0);
    close_desk();
}

/* Goal: an item that workers say they cannot do is given up after four times, and offered again after retry. */
static void test_failed_item(void)
{
    open_desk();
    store_prompts(1);
    hello('a', "rollout", BASE);
    want('a', 1);
    for (int i = 0; i < 4; i++) {
        turn();
        EXPECT_INT(count_replies('a', FRAME_prompt), 1);
        EXPECT_INT(reply('a', FRAME_prompt, 0)->prompt.sample, 0);
        fail('a', reply('a', FRAME_prompt, 0)->prompt.item);
        want('a', 1);
    }
    turn();
    EXPECT_INT(reply('a', FRAME_prompt, 0)->prompt.sample, 1);
    EXPECT_INT(db_int(db, db_query(db, "SELECT count(*) FROM failure WHERE reason = 'does not fit' AND attempts = 4", ""), 0), 1);

    char path[96];
    int code;
    snprintf(path, sizeof path, "%s/s.db", directory);
    struct db *beside = db_open(path, DB_EDIT, &code);
    EXPECT_INT(failures_forget(beside, "", ""), 1);
    db_close(beside);
    now_s += 1;
    want('a', 1);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 1);
    EXPECT_INT(reply('a', FRAME_prompt, 0)->prompt.sample, 0);
    close_desk();
}

/* Goal: a reward waits while rollouts are being made, takes only what its filter names, and is done when they are. */
static void test_reward_waits_for_rollouts(void)
{
    open_desk();
    store_prompts(1);
    hello('w', "reward", "{\"reward\": \"w\", \"spec\": {}, \"policy\": \"base\", \"split\": \"train\"}");
    hello('a', "rollout", BASE);
    want('a', 2);
    want('w', 4);
    turn();
    EXPECT_INT(reply('w', FRAME_idle, 0)->idle.missing, 2);
    answer('a', reply('a', FRAME_prompt, 0), FRAME_rollout, 1);
    struct frame second = *reply('a', FRAME_prompt, 1);
    turn();
    EXPECT_INT(count_replies('w', FRAME_rollout), 1);
    EXPECT_TEXT(reply('w', FRAME_rollout, 0)->rollout.response, "yes");
    answer('w', reply('w', FRAME_rollout, 0), FRAME_scored, 1);
    answer('a', &second, FRAME_rollout, 2);
    plain('a', FRAME_bye);
    turn();
    EXPECT_INT(count_replies('w', FRAME_rollout), 1);
    answer('w', reply('w', FRAME_rollout, 0), FRAME_scored, 2);
    want('w', 2);
    turn();
    plain('w', FRAME_beat);
    turn();
    EXPECT_INT(reply('w', FRAME_idle, 0)->idle.missing, 0);
    EXPECT_INT(reply('w', FRAME_idle, 0)->idle.final, 0);  // other prompts may come
    close_desk();
}

/* Goal: nobody is told that nothing is missing while what was stored a moment ago has not been looked through. */
static void test_fresh_rows_count(void)
{
    open_desk();
    hello('t', "tokenize", "{\"tokenizer\": \"T\"}");
    hello('a', "rollout", BASE);
    want('a', 2);
    turn();
    EXPECT_INT(reply('a', FRAME_idle, 0)->idle.missing, 1);
    now_s -= 0.5;  // the next turn is too soon for another look
    give_prompt('t', "p", 1);
    plain('t', FRAME_bye);
    plain('a', FRAME_beat);
    turn();
    EXPECT(reply('a', FRAME_idle, 0)->idle.missing > 0);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 2);
    close_desk();
}

/* Rollouts and scores of count prompts of 2 samples. */
static void make_scored(int count)
{
    store_prompts(count);
    hello('a', "rollout", BASE);
    want('a', 64);
    turn();
    size_t items = count_replies('a', FRAME_prompt);
    for (size_t i = 0; i < items; i++)
        answer('a', reply('a', FRAME_prompt, i), FRAME_rollout, (int64_t)i + 1);
    plain('a', FRAME_bye);
    hello('w', "reward", REWARD);
    want('w', 64);
    turn();
    items = count_replies('w', FRAME_rollout);
    for (size_t i = 0; i < items; i++)
        answer('w', reply('w', FRAME_rollout, i), FRAME_scored, (int64_t)i + 1);
    plain('w', FRAME_bye);
    turn();
}

/* Goal: a whole run: targets wait for the snapshot they need, train gets whole batches in order,
   both end when the last checkpoint is there. */
static void test_training_run(void)
{
    open_desk();
    make_scored(2);  // 4 rollouts, 2 batches of 2; 2 updates a batch: batch 1 needs the snapshot of step 1
    hello('v', "value-target", TARGET);
    hello('r', "train", TRAIN);
    want('v', 8);
    want('r', 8);
    turn();
    EXPECT_TEXT(reply('r', FRAME_welcome, 0)->welcome.settings, "{\"checkpoint\":-1}");
    EXPECT_INT(count_replies('v', FRAME_scored), 0);
    EXPECT(reply('v', FRAME_idle, 0)->idle.missing > 0);
    give_checkpoint('r', "weights", 0, 0, false, 1);
    turn();
    EXPECT_INT(count_replies('v', FRAME_scored), 2);
    struct frame scored[2] = { *reply('v', FRAME_scored, 0), *reply('v', FRAME_scored, 1) };
    EXPECT_INT(scored[0].scored.batch, 0);
    EXPECT_INT(scored[0].scored.step, 0);
    EXPECT_INT(scored[0].scored.batches, 2);
    answer('v', &scored[0], FRAME_target, 1);
    turn();
    EXPECT_INT(count_replies('r', FRAME_target), 0);  // half a batch is none
    answer('v', &scored[1], FRAME_target, 2);
    turn();
    EXPECT_INT(count_replies('r', FRAME_target), 2);
    EXPECT_INT(reply('r', FRAME_target, 0)->target.batch_size, 2);
    EXPECT_INT(reply('r', FRAME_target, 0)->target.item, 0);
    give_checkpoint('r', "weights", 1, 0, false, 2);
    turn();
    EXPECT_INT(count_replies('v', FRAME_scored), 2);
    EXPECT_INT(reply('v', FRAME_scored, 0)->scored.step, 1);
    scored[0] = *reply('v', FRAME_scored, 0);
    scored[1] = *reply('v', FRAME_scored, 1);
    answer('v', &scored[0], FRAME_target, 3);
    answer('v', &scored[1], FRAME_target, 4);
    turn();
    EXPECT_INT(count_replies('r', FRAME_target), 2);
    now_s += 1;
    turn();
    if (count_replies('v', FRAME_idle) > 0)
        EXPECT_INT(reply('v', FRAME_idle, 0)->idle.final, 1);
    give_checkpoint('r', "weights", 4, 2, true, 3);
    give_checkpoint('r', "full", 4, 2, true, 4);
    turn();
    now_s += 1;
    plain('r', FRAME_beat);
    turn();
    EXPECT_INT(reply('r', FRAME_idle, 0)->idle.final, 1);
    EXPECT_INT(reply('r', FRAME_idle, 0)->idle.missing, 0);

    /* Another train of the finished run is told at once. */
    restart_desk();
    hello('s', "train", TRAIN);
    want('s', 8);
    turn();
    EXPECT_TEXT(reply('s', FRAME_welcome, 0)->welcome.settings, "{\"checkpoint\":4}");
    EXPECT_INT(reply('s', FRAME_idle, 0)->idle.final, 1);
    close_desk();
}

/* Goal: rollouts and scored rollouts are held like prompts, those of a run with their snapshot. */
static void test_held_items_of_a_run(void)
{
    open_desk();
    make_scored(2);
    hello('u', "reward", "{\"reward\": \"u\", \"spec\": {\"kind\": \"test\"}}");
    hello('v', "value-target", TARGET);
    hello('r', "train", TRAIN);
    want('u', 1);
    want('v', 1);
    turn();
    give_checkpoint('r', "weights", 0, 0, false, 1);
    turn();
    struct frame scored = *reply('v', FRAME_scored, 0);
    restart_desk();
    hello('u', "reward", "{\"reward\": \"u\", \"spec\": {\"kind\": \"test\"}}");
    hello('v', "value-target", TARGET);
    scored.scored.item += 5;
    hold('u', &scored);
    hold('v', &scored);
    scored.scored.item++;
    scored.scored.batch = 1;  // which has others
    hold('v', &scored);
    scored.scored.batch = 2;  // of 0 and 1
    hold('v', &scored);
    turn();
    EXPECT_INT(desk_count(desk).leased, 2);
    want('u', 8);
    want('v', 8);
    turn();
    EXPECT_INT(count_replies('u', FRAME_rollout), 3);
    EXPECT_INT(count_replies('v', FRAME_scored), 1);
    plain('v', FRAME_bye);
    hello('x', "value-target", TARGET);
    want('x', 8);
    turn();
    EXPECT_INT(count_replies('x', FRAME_scored), 2);
    EXPECT_INT(reply('x', FRAME_scored, 0)->scored.step, 0);
    EXPECT_INT(reply('x', FRAME_scored, 1)->scored.step, 0);
    close_desk();
}

/* Goal: a second train takes over from the checkpoint; the first is sent away when it next speaks. */
static void test_take_over(void)
{
    open_desk();
    make_scored(2);
    hello('v', "value-target", TARGET);
    hello('r', "train", TRAIN);
    want('v', 8);
    want('r', 8);
    turn();
    give_checkpoint('r', "weights", 0, 0, false, 1);
    turn();
    answer('v', reply('v', FRAME_scored, 0), FRAME_target, 1);
    answer('v', reply('v', FRAME_scored, 1), FRAME_target, 2);
    turn();
    EXPECT_INT(count_replies('r', FRAME_target), 2);
    give_checkpoint('r', "full", 2, 1, false, 2);
    give_checkpoint('r', "weights", 1, 0, false, 3);
    turn();
    answer('v', reply('v', FRAME_scored, 0), FRAME_target, 3);
    answer('v', reply('v', FRAME_scored, 1), FRAME_target, 4);
    hello('s', "train", TRAIN);
    want('s', 8);
    turn();
    EXPECT_TEXT(reply('s', FRAME_welcome, 0)->welcome.settings, "{\"checkpoint\":2}");
    EXPECT_INT(count_replies('s', FRAME_target), 2);
    EXPECT_INT(reply('s', FRAME_target, 0)->target.batch, 1);
    plain('r', FRAME_beat);
    turn();
    struct frame *refusal = reply('r', FRAME_refusal, 0);
    EXPECT_INT(refusal->refusal.fatal, 1);
    close_desk();
}

/* Goal: a rollout that failed for good is left out of its batch. */
static void test_failed_member_is_left_out(void)
{
    open_desk();
    struct frame items[4];
    begin_rollouts('a', items);
    for (size_t i = 1; i < 4; i++)
        answer('a', &items[i], FRAME_rollout, (int64_t)i);
    int64_t lease = items[0].prompt.item;
    for (int i = 0; i < 4; i++) {
        fail('a', lease);
        want('a', 1);
        turn();
        if (i < 3)
            lease = reply('a', FRAME_prompt, 0)->prompt.item;
    }
    hello('w', "reward", REWARD);
    want('w', 8);
    turn();
    EXPECT_INT(count_replies('w', FRAME_rollout), 3);
    for (size_t i = 0; i < 3; i++)
        answer('w', reply('w', FRAME_rollout, i), FRAME_scored, (int64_t)i + 1);
    hello('v', "value-target", TARGET);
    hello('r', "train", TRAIN);
    want('v', 8);
    want('r', 8);
    give_checkpoint('r', "weights", 0, 0, false, 1);
    give_checkpoint('r', "weights", 1, 0, false, 2);
    turn();
    EXPECT_INT(count_replies('v', FRAME_scored), 3);
    for (size_t i = 0; i < 3; i++)
        answer('v', reply('v', FRAME_scored, i), FRAME_target, (int64_t)i + 1);
    turn();
    EXPECT_INT(count_replies('r', FRAME_target), 3);
    int64_t sizes = 0;
    for (size_t i = 0; i < 3; i++)
        sizes += reply('r', FRAME_target, i)->target.batch_size;
    EXPECT_INT(sizes, 2 + 2 + 1);
    close_desk();
}

/* Goal: outputs that name what their sender did not announce, or what is not there, are refused and counted as answered. */
static void test_refused_outputs(void)
{
    open_desk();
    store_prompts(1);
    hello('a', "rollout", BASE);
    want('a', 1);
    turn();
    struct frame frame = frame_make(FRAME_rollout);
    frame.rollout = (struct frame_rollout){ .prompt_key = "nobody", .tokenizer = "T", .split = "train", .prompt = "x",
                                            .prompt_tokens = { tokens, 3 },
        .policy = "base", .response = "yes", .response_tokens = { tokens, 3 }, .kl = NAN, .output = 9,
        .item = reply('a', FRAME_prompt, 0)->prompt.item };
    say('a', &frame);
    frame.rollout.policy = "other";
    frame.rollout.output = 10;
    frame.rollout.item = 0;
    say('a', &frame);
    give_prompt('a', "z", 11);
    want('a', 1);
    turn();
    EXPECT_INT(reply('a', FRAME_refusal, 0)->refusal.output, 9);
    EXPECT_TEXT(reply('a', FRAME_refusal, 0)->refusal.reason, "field \"prompt_key\" is \"nobody\", the store has no such prompt");
    EXPECT_TEXT(reply('a', FRAME_refusal, 1)->refusal.reason, "field \"policy\" is \"other\", this worker announced \"base\"");
    EXPECT_TEXT(reply('a', FRAME_refusal, 2)->refusal.reason, "stage \"rollout\" with these settings does not send prompt frames");
    EXPECT_INT(count_replies('a', FRAME_ack), 0);
    EXPECT_INT(count_replies('a', FRAME_prompt), 1);  // its item is offered again
    close_desk();
}

/* Goal: when the store cannot be written nothing is acknowledged, the conversation begins anew, and what is sent again counts. */
static void test_store_cannot_be_written(void)
{
    open_desk();
    hello('t', "tokenize", "{\"tokenizer\": \"T\"}");
    turn();
    sqlite3_stmt *limit = db_prepare(db, "PRAGMA max_page_count = 1");  // SQLite then keeps to the pages that are there
    db_run(db, limit);
    sqlite3_finalize(limit);
    char key[40];
    for (int i = 0; i < 2000; i++) {
        snprintf(key, sizeof key, "prompt %d", i);
        give_prompt('t', key, i + 1);
    }
    EXPECT_INT(desk_commit(desk, now_s), DESK_LATER);
    EXPECT_INT(desk_parcel_count(desk), 0);
    EXPECT_INT(db_int(db, db_query(db, "SELECT count(*) FROM prompt", ""), -1), 0);
    EXPECT_INT(desk_count(desk).stored, 0);
    plain('t', FRAME_beat);
    turn();
    EXPECT_INT(count_replies('t', FRAME_stranger), 1);
    limit = db_prepare(db, "PRAGMA max_page_count = 1000000");
    db_run(db, limit);
    sqlite3_finalize(limit);
    hello('t', "tokenize", "{\"tokenizer\": \"T\"}");
    give_prompt('t', "prompt 0", 1);
    turn();
    EXPECT_INT(count_replies('t', FRAME_ack), 1);
    EXPECT_INT(desk_count(desk).stored, 1);
    close_desk();
}

static bool crowded_now;

static bool is_crowded(const void *of, const void *peer, size_t peer_size)
{
    EXPECT(of == &crowded_now && peer_size == 1);
    return crowded_now && *(const char *)peer == 'd';
}

static void open_crowding_desk(void)
{
    open_desk();
    desk_close(desk);
    desk = desk_open(db, &(struct desk_options){ .silent_s = 15, .lease_s = 60, .crowded = is_crowded, .of = &crowded_now });
}

/* Goal: no share of the last items is kept for a worker that cannot take it: that holds a suspect, or does not read. */
static void test_share_of_who_cannot_take(void)
{
    open_crowding_desk();
    store_prompts(10);
    hello('a', "rollout", BASE);
    for (int i = 0; i < 2; i++) {
        want('a', 1);
        turn();
        fail('a', reply('a', FRAME_prompt, 0)->prompt.item);
    }
    want('a', 64);
    turn();
    EXPECT_INT(count_replies('a', FRAME_prompt), 1);
    crowded_now = true;
    hello('b', "rollout", BASE);
    hello('d', "rollout", BASE);
    want('b', 64);
    want('d', 64);
    turn();
    crowded_now = false;
    EXPECT_INT(count_replies('b', FRAME_prompt), 19);
    close_desk();
}

static void fetch(char worker, int64_t step)
{
    struct frame frame = frame_make(FRAME_fetch);
    frame.fetch.run = "r";
    frame.fetch.step = step;
    frame.fetch.kind = "weights";
    say(worker, &frame);
}

/*
 * Goal: however often a worker asks for a piece of a file, it gets one in a turn, of its latest question, and neither that nor
 * items while what it was sent before is unread; others are served meanwhile.
 */
static void test_one_piece_at_a_time(void)
{
    open_crowding_desk();
    hello('d', "decode", "{}");
    hello('e', "decode", "{}");
    turn();
    for (int64_t step = 1; step <= 100; step++)
        fetch('d', step);
    turn();
    EXPECT_INT(count_replies('d', FRAME_refusal), 1);  // there is no such checkpoint
    EXPECT(strstr(reply('d', FRAME_refusal, 0)->refusal.reason, "step 100,") != NULL);
    crowded_now = true;
    fetch('d', 7);
    fetch('e', 8);
    turn();
    EXPECT_INT(reply_count, 1);
    EXPECT_INT(count_replies('e', FRAME_refusal), 1);
    EXPECT(desk_waits(desk));
    crowded_now = false;
    turn();
    EXPECT_INT(count_replies('d', FRAME_refusal), 1);
    EXPECT(!desk_waits(desk));
    close_desk();
}

int main(void)
{
    log_open("test", -1);
    RUN(test_hello_and_acks);
    RUN(test_effort_adds_up);
    RUN(test_status);
    RUN(test_long_status);
    RUN(test_status_is_tame);
    RUN(test_rate);
    RUN(test_strangers_and_nonsense);
    RUN(test_pinning);
    RUN(test_long_foreign_texts);
    RUN(test_fetch_worker);
    RUN(test_pieces_are_bounded);
    RUN(test_credit_and_order);
    RUN(test_samples_stay_together);
    RUN(test_last_items_are_shared);
    RUN(test_last_items_of_a_whole_look);
    RUN(test_items_come_back);
    RUN(test_held_items);
    RUN(test_held_over_a_broken_link);
    RUN(test_held_in_vain);
    RUN(test_silence);
    RUN(test_deadly_item);
    RUN(test_pardon);
    RUN(test_lost_frames);
    RUN(test_failed_item);
    RUN(test_reward_waits_for_rollouts);
    RUN(test_fresh_rows_count);
    RUN(test_training_run);
    RUN(test_held_items_of_a_run);
    RUN(test_take_over);
    RUN(test_failed_member_is_left_out);
    RUN(test_refused_outputs);
    RUN(test_store_cannot_be_written);
    RUN(test_share_of_who_cannot_take);
    RUN(test_one_piece_at_a_time);
    return tests_end();
}
