/*
 * How prompt and response become a reward model's input.  The tokenizers are those of tests/parity/hh: reward's puts
 * [CLS] first [SEP] second [SEP] (ids 1, 2) around two texts, chat_reward's is byte-level and puts nothing around, its ids 0 to 2
 * are <|endoftext|>, <|im_start|> and <|im_end|>.
 */
#include "base/log.h"
#include "score/join.h"
#include "stderr_text.h"
#include "../check.h"

static struct tokenizer *pair_tokenizer, *chat_tokenizer;

/* The join of this name; a token_max of 0 is none. */
static struct join join_of(const char *name, const struct tokenizer *tokenizer, size_t token_max)
{
    struct join join;
    if (join_init(&join, name) != 0) {
        fprintf(stderr, "test_join: no join \"%s\"\n", name);
        exit(1);
    }
    join.tokenizer = tokenizer;
    join.token_max = token_max > 0 ? token_max : 100000;
    join.vocab_size = tokenizer_vocab_size(tokenizer);
    return join;
}

static struct token_list ids_of(const struct tokenizer *tokenizer, const char *text, unsigned flags)
{
    struct token_list ids = { 0 };
    tokenizer_encode(tokenizer, text, strlen(text), flags, &ids);
    return ids;
}

static bool same_ids(const struct token_list *left, const struct token_list *right)
{
    return left->count == right->count && memcmp(left->at, right->at, left->count * sizeof *left->at) == 0;
}

/* Whether joining gives the ids of this text, which is read with its markup. */
static bool gives_text(struct join join, const char *prompt, const char *response, const char *text)
{
    struct join_input input;
    char reason[256];
    struct token_list expected = ids_of(join.tokenizer, text, ENCODE_MARKUP);
    bool same = join_encode(&join, &(struct scorer_text){ prompt, response }, &input, reason) == 0
        && same_ids(&input.ids, &expected);
    join_input_free(&input);
    free(expected.at);
    join_free(&join);
    return same;
}

/* Whether joining gives this pair. */
static bool gives_pair(struct join join, const char *prompt, const char *response, const char *first, const char *second)
{
    struct join_input input;
    char reason[256];
    struct token_list ids = { 0 }, types = { 0 };
    tokenizer_encode_pair(join.tokenizer, first, strlen(first), second, strlen(second), &ids, &types);
    bool same = join_encode(&join, &(struct scorer_text){ prompt, response }, &input, reason) == 0 && same_ids(&input.ids, &ids)
                && same_ids(&input.types, &types);
    join_input_free(&input);
    free(ids.at);
    free(types.at);
    join_free(&join);
    return same;
}

/* Goal: the names that are read, and one line with a hint for others. */
static void test_names(void)
{
    static const char *const good[] = { "pair", "last-turn", "concat", "chat:chatml", "chat:hh", "{response}",
                                        "{prompt}\\n{response}", "{response} answers {prompt}" };
    static const char *const bad[] = { "", "pairs", "chat:", "chat:none", "{prompt}", "{response}{response}",
                                       "{prompt}{prompt}{response}" };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct join join;
        EXPECT_INT(join_init(&join, good[i]), 0);
        EXPECT_TEXT(join.name, good[i]);
        join_free(&join);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct join join;
        stderr_hold();
        int status = join_init(&join, bad[i]);
        const char *said = stderr_release();
        if (status == 0 || strstr(said, "must be pair") == NULL || strstr(said, "hint: chat's NAME is one of llama-2, ") == NULL)
            TEST_FAIL("\"%s\": status %d, said %s", bad[i], status, said);
    }
    EXPECT_INT(truncation_from_name("right"), TRUNCATE_RIGHT);
    EXPECT_INT(truncation_from_name("middle"), TRUNCATION_COUNT);
}

/* The dialogue in a prompt as "role:content|role:content"; "none". */
static const char *messages_of(const char *prompt)
{
    static char out[1024];
    struct join join = join_of("concat", pair_tokenizer, 0);
    json_t *messages = join_messages(&join, prompt);
    size_t size = (size_t)snprintf(out, sizeof out, "%s", messages == NULL ? "none" : "");
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        size += (size_t)snprintf(out + size, sizeof out - size, "%s%s:%s", i > 0 ? "|" : "",
                                 json_string_value(json_object_get(message, "role")),
                                 json_string_value(json_object_get(message, "content")));
    }
    json_decref(messages);
    join_free(&join);
    return out;
}

/* Goal: a prompt that was a dialogue in any of the formats is one again; other texts are none. */
static void test_dialogues(void)
{
    EXPECT_TEXT(messages_of("\n\nHuman: hi\n\nAssistant:"), "user:hi");
    EXPECT_TEXT(messages_of("\n\nHuman: a\n\nHuman:b\n\nAssistant: c\n\nd\n\nHuman: e?\n\nAssistant: "), "user:a\nb|assistant:c\n\n"
                "d|user:e?");
    EXPECT_TEXT(messages_of("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"), "user:hi");
    EXPECT_TEXT(messages_of("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
                            "b<|im_end|>\n"
                            "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"), "system:be kind|user:a|assistant:b|user:c");
    EXPECT_TEXT(messages_of("<|user|>\na</s>\n<|assistant|>\n"), "user:a");

    EXPECT_TEXT(messages_of(""), "none");
    EXPECT_TEXT(messages_of("Once upon a time"), "none");
    EXPECT_TEXT(messages_of("\n\nHuman: hi"), "none");                              // the assistant is not asked
    EXPECT_TEXT(messages_of("\n\nHuman: hi\n\nAssistant: I"), "none");              // it has begun
    EXPECT_TEXT(messages_of("Human: hi\n\nAssistant:"), "none");
    EXPECT_TEXT(messages_of("\n\nHuman: \xff\n\nAssistant:"), "none");              // no UTF-8
}

/* Goal: what chat_render writes is read again, in every format, with and without a system message and earlier turns. */
static void test_dialogues_as_rendered(void)
{
    static const char *const dialogues[] = {
        "[{\"role\":\"user\",\"content\":\"a b\"}]",
        ("[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\\n\\nc\"},"
         "{\"role\":\"user\",\"content\":\"d?\"}]"),
        "[{\"role\":\"system\",\"content\":\"be kind\"},{\"role\":\"user\",\"content\":\"a\"}]",
    };
    struct join join = join_of("concat", pair_tokenizer, 0);
    size_t read = 0;
    for (size_t format = 0; format < CHAT_FORMAT_COUNT; format++) {
        for (size_t i = 0; i < 3; i++) {
            json_t *messages = json_loads(dialogues[i], 0, NULL);
            struct chat_text text = { 0 };
            char reason[256];
            if (chat_render((enum chat_format)format, messages, NULL, &text, reason) == 0) {
                char *prompt_text = memory_printf("%.*s", (int)text.text.size, text.text.data);
                json_t *again = join_messages(&join, prompt_text);
                if (!json_equal(messages, again))
                    TEST_FAIL("%s, dialogue %zu", chat_format_name((enum chat_format)format), i);
                json_decref(again);
                free(prompt_text);
                read++;
            }
            chat_text_free(&text);
            json_decref(messages);
        }
    }
    EXPECT_INT(read, 3 * CHAT_FORMAT_COUNT - 1);  // HH has no system messages
    join_free(&join);
}

/* Goal: a text that says its begin token does not get another. */
static void test_one_begin_token(void)
{
    const char *path = test_data("tokenizers/llama2/tokenizer.json");
    if (path == NULL)
        TEST_SKIP("../shared/data is not here");
    int code;
    struct tokenizer *llama = tokenizer_open(path, &code);
    EXPECT(llama != NULL);
    if (llama == NULL)
        return;
    static const char *const prompts[] = { "Hello", "<s>Hello", "<s>[INST] Hello [/INST]" };
    for (size_t i = 0; i < 3; i++) {
        struct join join = join_of(i < 2 ? "concat" : "chat:llama-2", llama, 0);
        struct join_input input;
        char reason[256];
        EXPECT_INT(join_encode(&join, &(struct scorer_text){ prompts[i], " you" }, &input, reason), 0);
        EXPECT(input.ids.count > 2 && input.ids.at[0] == 1 && input.ids.at[1] != 1);
        join_input_free(&input);
        join_free(&join);
    }
    tokenizer_close(llama);
}

/* Goal: pair takes the texts as they are; last-turn takes the user's last message and the response without the spaces around. */
static void test_pairs(void)
{
    static const char dialogue[] = "\n\nHuman: Tell me something.\n\nAssistant: No.\n\nHuman: Are you sure?\n\nAssistant:";
    EXPECT(gives_pair(join_of("pair", pair_tokenizer, 0), dialogue, " Yes. ", dialogue, " Yes. "));
    EXPECT(gives_pair(join_of("last-turn", pair_tokenizer, 0), dialogue, " Yes. ", "Are you sure?", "Yes."));
    EXPECT(gives_pair(join_of("last-turn", pair_tokenizer, 0), "Are you sure?", " Yes. ", "Are you sure?", " Yes. "));
    EXPECT(gives_pair(join_of("last-turn", pair_tokenizer, 0), "", "", "", ""));
}

/* Goal: concat, templates and chats give the text one expects. */
static void test_texts(void)
{
    EXPECT(gives_text(join_of("concat", chat_tokenizer, 0), "What now?", " Go on.", "What now? Go on."));
    EXPECT(gives_text(join_of("Q: {prompt}\\nA: {response}<|endoftext|>", chat_tokenizer, 0), "What now?", "Go on.",
                      "Q: What now?\nA: Go on.<|endoftext|>"));
    EXPECT(gives_text(join_of("{response}", chat_tokenizer, 0), "What now?", "{prompt}", "{prompt}"));
    EXPECT(gives_text(join_of("{response} < {prompt}", chat_tokenizer, 0), "What now?", "Go on.", "Go on. < What now?"));
    EXPECT(gives_text(join_of("chat:chatml", chat_tokenizer, 0), "What now?", " Go on.",
                      "<|im_start|>user\nWhat now?<|im_end|>\n<|im_start|>assistant\n Go on.<|im_end|>\n"));
    // a dialogue is rendered anew, and the space that HH puts before an answer is no part of it
    EXPECT(gives_text(join_of("chat:chatml", chat_tokenizer, 0), "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
                      " Go on.",
                      "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
                      "<|im_start|>assistant\nGo on.<|im_end|>\n"));
    EXPECT(gives_text(join_of("chat:hh", chat_tokenizer, 0), "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", "b",
                      "\n\nHuman: a\n\nAssistant: b"));
    // an encoder's begin and end stay around a chat
    struct join join = join_of("chat:hh", pair_tokenizer, 0);
    join.around = true;
    struct join_input input;
    char reason[256];
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ "a", "b" }, &input, reason), 0);
    EXPECT(input.ids.count > 2 && input.ids.at[0] == 1 && input.ids.at[input.ids.count - 1] == 2);
    join_input_free(&input);
    join_free(&join);
    join = join_of("chat:chatml", chat_tokenizer, 0);
    join.system = memory_text("be kind");
    EXPECT(gives_text(join, "a", "b", "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
                      "<|im_start|>assistant\nb<|im_end|>\n"));
}

/* How often an id stands in an input. */
static size_t id_count(const struct join_input *input, int32_t id)
{
    size_t count = 0;
    for (size_t t = 0; t < input->ids.count; t++)
        count += input->ids.at[t] == id;
    return count;
}

/* Goal: a response cannot write special tokens, whatever the join; a prompt only in concat. */
static void test_special_tokens_in_texts(void)
{
    static const struct { const char *name; size_t ends; } cases[] = {
        { "concat", 1 }, { "chat:chatml", 2 }, { "{prompt}<|im_end|>{response}", 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct join join = join_of(cases[i].name, chat_tokenizer, 0);
        struct join_input input;
        char reason[256];
        EXPECT_INT(join_encode(&join, &(struct scorer_text){ "a<|im_end|>", "b<|im_end|>" }, &input, reason), 0);
        if (id_count(&input, 2) != cases[i].ends)
            TEST_FAIL("%s has %zu end tokens, expected %zu", cases[i].name, id_count(&input, 2), cases[i].ends);
        join_input_free(&input);
        join_free(&join);
    }
    struct join join = join_of("pair", pair_tokenizer, 0);
    struct join_input input;
    char reason[256];
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ "a [SEP] b", "[CLS] [SEP]" }, &input, reason), 0);
    EXPECT_INT(id_count(&input, 1), 1);
    EXPECT_INT(id_count(&input, 2), 2);
    join_input_free(&input);
    join_free(&join);
}

static const char prompt[] = "I'm angry about learning to swim. What now?", response[] = "Of course! It is best to be patient.";

/* Goal: left takes from the beginning of the prompt what is too much, and nothing of the response. */
static void test_truncate_left(void)
{
    struct token_list first = ids_of(pair_tokenizer, prompt, 0), second = ids_of(pair_tokenizer, response, 0);
    size_t whole = 3 + first.count + second.count;
    for (size_t max = 1; max <= whole; max++) {
        struct join join = join_of("pair", pair_tokenizer, max);
        struct join_input input;
        char reason[256] = "";
        int status = join_encode(&join, &(struct scorer_text){ prompt, response }, &input, reason);
        EXPECT_INT(status, max >= 3 + second.count ? 0 : -1);
        if (status == 0) {
            size_t kept = max - 3 - second.count;
            EXPECT_INT(input.ids.count, max);
            EXPECT_INT(input.types.count, max);
            EXPECT_INT(input.cut, whole - max);
            EXPECT_INT(input.ids.at[0], 1);
            EXPECT(memcmp(input.ids.at + 1, first.at + first.count - kept, kept * sizeof(int32_t)) == 0);
            EXPECT_INT(input.ids.at[1 + kept], 2);
            EXPECT(memcmp(input.ids.at + 2 + kept, second.at, second.count * sizeof(int32_t)) == 0);
            EXPECT_INT(input.types.at[1 + kept], 0);
            EXPECT_INT(input.types.at[2 + kept], 1);
        } else {
            EXPECT(strstr(reason, "the reward model reads at most") != NULL);
        }
        join_input_free(&input);
        join_free(&join);
    }
    free(first.at);
    free(second.at);
}

/* Goal: the same for one text, of which what the tokenizer puts around stays too. */
static void test_truncate_text_left(void)
{
    struct token_list response_ids = ids_of(chat_tokenizer, response, 0), all = { 0 };
    tokenizer_encode(chat_tokenizer, "I'm angry about learning to swim. What now?Of course! It is best to be patient.", 79, 0,
                     &all);
    struct join join = join_of("concat", chat_tokenizer, response_ids.count + 2);
    struct join_input input;
    char reason[256] = "";
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ prompt, response }, &input, reason), 0);
    EXPECT_INT(input.ids.count, response_ids.count + 2);
    EXPECT(memcmp(input.ids.at, all.at + input.cut, input.ids.count * sizeof(int32_t)) == 0);
    join_input_free(&input);
    join.token_max = response_ids.count - 1;
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ prompt, response }, &input, reason), -1);
    join_input_free(&input);
    join.tokenizer = pair_tokenizer;  // [CLS] and [SEP] around one text
    join.token_max = 30;
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ prompt, response }, &input, reason), 0);
    EXPECT_INT(input.ids.count, 30);
    EXPECT_INT(input.ids.at[0], 1);
    EXPECT_INT(input.ids.at[29], 2);
    join_input_free(&input);
    join_free(&join);
    free(response_ids.at);
    free(all.at);
}

/* Goal: right shortens the longer text first, then both, as the tokenizers library; refuse refuses. */
static void test_truncate_right_and_refuse(void)
{
    struct join join = join_of("pair", pair_tokenizer, 13);  // 10 tokens beside the three
    join.truncation = TRUNCATE_RIGHT;
    struct token_list short_ids = ids_of(pair_tokenizer, "Are you", 0);
    struct join_input input;
    char reason[256] = "";
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ "Are you", response }, &input, reason), 0);
    EXPECT_INT(input.ids.count, 13);
    EXPECT_INT(input.ids.at[1 + short_ids.count], 2);  // the shorter one whole
    join_input_free(&input);
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ prompt, response }, &input, reason), 0);
    EXPECT_INT(input.ids.count, 13);
    EXPECT_INT(input.ids.at[6], 2);  // five and five
    join_input_free(&input);

    join.truncation = TRUNCATE_REFUSE;
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ prompt, response }, &input, reason), -1);
    EXPECT(strstr(reason, "the reward model reads at most 13") != NULL);
    join_input_free(&input);
    join_free(&join);
    free(short_ids.at);
}

/* Goal: no tokens at all, and tokens that the model does not have, are reasons. */
static void test_refusals(void)
{
    struct join join = join_of("concat", chat_tokenizer, 0);
    struct join_input input;
    char reason[256] = "";
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ "", "" }, &input, reason), -1);
    EXPECT_TEXT(reason, "prompt and response give no tokens");
    join_input_free(&input);
    join.vocab_size = 2;
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ "<|im_start|><|im_end|>", "" }, &input, reason), -1);
    EXPECT_TEXT(reason, "token 2 of the tokenizer is outside the reward model's vocabulary of 2");
    join_input_free(&input);
    join_free(&join);
    join = join_of("chat:chatml", chat_tokenizer, 0);
    EXPECT_INT(join_encode(&join, &(struct scorer_text){ "\xff", "" }, &input, reason), -1);
    join_input_free(&input);
    join_free(&join);
}

int main(void)
{
    log_open("test_join", 0);
    int code;
    pair_tokenizer = tokenizer_open("tests/parity/hh/reward", &code);
    chat_tokenizer = tokenizer_open("tests/parity/hh/chat_reward", &code);
    if (pair_tokenizer == NULL || chat_tokenizer == NULL)
        return 1;
    RUN(test_names);
    RUN(test_dialogues);
    RUN(test_dialogues_as_rendered);
    RUN(test_one_begin_token);
    RUN(test_pairs);
    RUN(test_texts);
    RUN(test_special_tokens_in_texts);
    RUN(test_truncate_left);
    RUN(test_truncate_text_left);
    RUN(test_truncate_right_and_refuse);
    RUN(test_refusals);
    tokenizer_close(pair_tokenizer);
    tokenizer_close(chat_tokenizer);
    return tests_end();
}
