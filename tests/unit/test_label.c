/* Which label of a classification head counts: by name, index, difference, and what is refused. */
#include "base/log.h"
#include "score/label.h"
#include "stderr_text.h"
#include "../check.h"

static const char sentiment[] = "{\"id2label\": {\"0\": \"negative\", \"1\": \"neutral\", \"2\": \"positive\"}}";
static const char dashes[] = "{\"id2label\": {\"0\": \"toxic\", \"1\": \"non-toxic\", \"2\": \"non\", \"3\": \"toxic-2\"}}";

/* 0 and the choice, or -1. */
static int choose(struct label *label, const char *text, const char *config, size_t label_count)
{
    json_t *json = json_loads(config, 0, NULL);
    int status = label_choose(label, text, json, label_count, "dir");
    json_decref(json);
    return status;
}

/* Goal: a single label needs no name; a name or an index chooses; without names transformers' LABEL_0, LABEL_1 are understood. */
static void test_names_and_indices(void)
{
    static const struct { const char *text, *config; size_t count, plus, minus; } cases[] = {
        { NULL, "{}", 1, 0, LABEL_NONE }, { NULL, sentiment, 1, 0, LABEL_NONE },
        { "positive", sentiment, 3, 2, LABEL_NONE }, { "1", sentiment, 3, 1, LABEL_NONE }, { "LABEL_1", "{}", 2, 1, LABEL_NONE },
        { "positive-negative", sentiment, 3, 2, 0 }, { "2-0", sentiment, 3, 2, 0 }, { "neutral-2", sentiment, 3, 1, 2 },
        { "non-toxic", dashes, 4, 1, LABEL_NONE },       // a whole name comes first
        { "non-toxic-toxic", dashes, 4, 1, 0 },          // one reading only
        { "toxic-non-toxic", dashes, 4, 0, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct label label;
        if (choose(&label, cases[i].text, cases[i].config, cases[i].count) != 0)
            TEST_FAIL("case %zu is refused", i);
        else if (label.plus != cases[i].plus || label.minus != cases[i].minus)
            TEST_FAIL("case %zu gave %zu, %zu", i, label.plus, label.minus);
    }
}

/* Goal: what is none, several or nothing is refused in one line with the labels there are, and a hint. */
static void test_refusals(void)
{
    static const struct { const char *text, *config; size_t count; const char *says; } cases[] = {
        { NULL, sentiment, 3, "\"dir\" has several labels: 0 \"negative\", 1 \"neutral\", 2 \"positive\"\n" },
        { NULL, "{}", 2, "\"dir\" has several labels: 0, 1\n" },
        { "Positive", sentiment, 3, "\"dir\" has no label \"Positive\", it has: 0 \"negative\"" },
        { "3", sentiment, 3, "has no label \"3\"" }, { "", sentiment, 3, "has no label \"\"" },
        { "99999999999999999999", sentiment, 3, "has no label" }, { "positive-", sentiment, 3, "has no label" },
        { "1-1", sentiment, 3, "gives always 0 for label \"1-1\"" },
        // non - toxic-2, and non-toxic - 2
        { "non-toxic-2", dashes, 4, "has more than one reading of label \"non-toxic-2\"" },
        { "x", "{\"id2label\": {\"0\": 7}}", 1, "it has: 0\n" },
        { "x", "{\"id2label\": [\"x\"]}", 1, "it has: 0\n" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct label label;
        stderr_hold();
        int status = choose(&label, cases[i].text, cases[i].config, cases[i].count);
        const char *said = stderr_release();
        if (status == 0 || strstr(said, cases[i].says) == NULL || strstr(said, "hint: ") == NULL)
            TEST_FAIL("case %zu: status %d, said %s", i, status, said);
    }
}

int main(void)
{
    log_open("test_label", 0);
    RUN(test_names_and_indices);
    RUN(test_refusals);
    return tests_end();
}
