/* config_parts.h - what config.c, config_json.c and config_gguf.c share.  Internal to common/model. */
#ifndef MODEL_CONFIG_PARTS_H
#define MODEL_CONFIG_PARTS_H

#include "model/config.h"

/* A count of a config: where it stands, how the formats call it, its largest value. */
struct config_count {
    size_t offset;
    const char *json_key, *gpt2_key;  // gpt2_key: in GPT-2's config.json; NULL: not there
    const char *gguf_key;             // behind "llama."; NULL: see config_from_gguf
    int64_t max;
};
enum { CONFIG_COUNTS = 8 };
extern const struct config_count config_counts[CONFIG_COUNTS];  // vocab_size first

int64_t *config_count_at(struct model_config *config, const struct config_count *count);
/* key is how the error calls it.  0, or -1 with the reason logged when number is out of bounds. */
int config_count_set(struct model_config *config, const struct config_count *count, const char *key, int64_t number,
                     const char *name);

/* 0, or -1 with the reason logged when what (a key) is not within the bounds or no number. */
int config_bound(double number, double min, double max, const char *what, const char *name);

/* Fills what may be left out and checks every field, also for what the fields owe to each other.  0 or -1, logged. */
int config_complete(struct model_config *config, const char *name);

/* Longrope from its scaling of cosine and sine (0: what transformers takes): ends position_max where the short factors end. */
void config_longrope(struct model_config *config, double attention_factor);
/* What transformers takes for longrope where a config has no attention_factor. */
double config_longrope_attention(double factor, int64_t original_positions);
/* The same for YaRN. */
double config_yarn_attention(double factor);

/* What llama.cpp multiplies Gemma-2's queries by: GGUF does not say it. */
double config_gguf_attention_scale(const struct model_config *config);

#endif
