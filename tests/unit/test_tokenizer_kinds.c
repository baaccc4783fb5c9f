/*
 * test_tokenizer_kinds.c - each kind of model, normalizer, pre-tokenizer, post-processor and decoder on cases worked by hand.
 */
#define _GNU_SOURCE
#include "../check.h"
#include "base/check.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/tokenizer_parts.h"
#include "stderr_text.h"
#include "token_text.h"

#define MARK "\xe2\x96\x81"  // U+2581

/* text holds ' for ": JSON without the backslashes. */
static struct tokenizer *from_text(const char *text)
{
    char *quoted = memory_text(text);
    for (char *at = quoted; *at != '\0'; at++)
        *at = *at == '\'' ? '"' : *at;
    json_t *json = json_parse(quoted, strlen(quoted), "test");
    struct tokenizer *tokenizer = json != NULL ? tokenizer_from_json(json, "test") : NULL;
    json_decref(json);
    free(quoted);
    if (tokenizer != NULL)
        tokenizer_finish(tokenizer);
    return tokenizer;
}

static void expect_ids(const struct tokenizer *tokenizer, const char *text, unsigned flags, const char *expected)
{
    struct token_list ids = { 0 };
    tokenizer_encode(tokenizer, text, strlen(text), flags, &ids);
    expect_list(&ids, expected);
    free(ids.at);
}

/* The text of ids at once, and token by token. */
static void expect_text(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, const char *expected)
{
    struct buffer whole = { 0 }, parts = { 0 };
    struct text_stream stream = { 0 };
    tokenizer_decode(tokenizer, ids, count, 0, &whole);
    for (size_t i = 0; i < count; i++)
        text_stream_push(&stream, tokenizer, ids[i], &parts);
    text_stream_end(&stream, &parts);
    buffer_append(&whole, "", 1);
    buffer_append(&parts, "", 1);
    EXPECT_TEXT(whole.data, expected);
    EXPECT_TEXT(parts.data, expected);
    free(whole.data);
    free(parts.data);
}
#define EXPECT_DECODED(tokenizer, expected, ...) \
    expect_text(tokenizer, (int32_t[]){ __VA_ARGS__ }, sizeof (int32_t[]){ __VA_ARGS__ } / sizeof(int32_t), expected)

/* ---- models ---- */

/* Goal: the highest sum of scores; of equal sums the earlier last piece; unknown ones in one, at the least score less 10. */
static void test_unigram_by_hand(void)
{
    struct tokenizer *tokenizer = from_text("{'model':{'type':'Unigram','unk_id':0,'vocab':[['<unk>',0],['a',-1],['b',-1],"
                                            "['ab',-3],"
                                            "['abc',-30],['c',-2],['xy',-4],['aa',-2]]}}");
    EXPECT(tokenizer != NULL);
    expect_ids(tokenizer, "", 0, "");
    expect_ids(tokenizer, "ab", 0, "1 2");     // -2 against -3
    expect_ids(tokenizer, "abc", 0, "1 2 5");  // -4 against -5 and -30
    expect_ids(tokenizer, "aa", 0, "7");       // -2 both ways: the piece that begins earlier was offered first
    expect_ids(tokenizer, "a??\xc3\xa9" "b", 0, "1 0 2");
    expect_ids(tokenizer, "xyx", 0, "6 0");    // -4 and -40 against three times -40
    EXPECT_DECODED(tokenizer, "ab c", 3, 5);   // no decoder: a space between
    tokenizer_close(tokenizer);
}

/* Goal: bytes for what is unknown where all of them are tokens; a special token is no piece of a text that is read plainly. */
static void test_unigram_bytes_and_special(void)
{
    struct tokenizer *tokenizer = from_text("{'model':{'type':'Unigram','unk_id':0,'byte_fallback':true,'vocab':[['<unk>',0],"
                                            "['</s>',0],['<0xC3>',-9],['<0xA9>',-9],['s',-1],['<',-1],['/',-1],['>',-1]]},"
                                            "'normalizer':{'type':'NFKC'},"
                                            "'added_tokens':[{'id':1,'content':'</s>','special':true,'normalized':false}]}");
    EXPECT(tokenizer != NULL);
    expect_ids(tokenizer, "s\xc3\xa9s", 0, "4 2 3 4");
    expect_ids(tokenizer, "s\xc3\xa8s", 0, "4 0 4");  // 0xA8 is no token
    expect_ids(tokenizer, "</s>", ENCODE_MARKUP, "1");
    expect_ids(tokenizer, "</s>", 0, "5 6 4 7");
    // A full-width "</s>" becomes the token as in the library, but not where special tokens are text.
    expect_ids(tokenizer, "\xef\xbc\x9c/s\xef\xbc\x9e", ENCODE_MARKUP, "1");
    expect_ids(tokenizer, "\xef\xbc\x9c/s\xef\xbc\x9e", 0, "5 6 4 7");
    tokenizer_close(tokenizer);
}

/* Goal: the longest piece first, "##" inside a word, one unknown token for a word with an unknown part or that is too long. */
static void test_wordpiece_by_hand(void)
{
    struct tokenizer *tokenizer = from_text("{'model':{'type':'WordPiece','unk_token':'[UNK]','continuing_subword_prefix':'##',"
                                            "'max_input_chars_per_word':6,'vocab':{'[UNK]':0,'un':1,'##aff':2,'##able':3,"
                                            "'##a':4,"
                                            "'unaf':5,'\xc3\xa9':6,'##\xc3\xa9':7,'##f':8}},"
                                            "'pre_tokenizer':{'type':'WhitespaceSplit'},"
                                            "'decoder':{'type':'WordPiece','prefix':'##','cleanup':false}}");
    EXPECT(tokenizer != NULL);
    expect_ids(tokenizer, "unaff un", 0, "5 8 1");
    expect_ids(tokenizer, "una\tunb", 0, "1 4 0");
    expect_ids(tokenizer, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", 0, "6 7 7 7 7 7");  // 6 characters
    expect_ids(tokenizer, "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", 0, "0");
    expect_ids(tokenizer, "aff", 0, "0");  // not at the beginning of a word
    EXPECT_DECODED(tokenizer, "unaff un", 5, 8, 1);
    EXPECT_DECODED(tokenizer, "##aaff", 4, 2);  // the first token keeps its prefix
    tokenizer_close(tokenizer);
}

/* Goal: a word is a token or unknown. */
static void test_wordlevel_by_hand(void)
{
    struct tokenizer *tokenizer = from_text("{'model':{'type':'WordLevel','unk_token':'?','vocab':{'?':0,'to':1,'be':2}},"
                                            "'pre_tokenizer':{'type':'Whitespace'}}");
    EXPECT(tokenizer != NULL);
    expect_ids(tokenizer, "to be,  bee", 0, "1 2 0 0");
    EXPECT_DECODED(tokenizer, "to be", 1, 2);
    tokenizer_close(tokenizer);
}

/* Goal: characters are named by their place in a word, and merges join the names. */
static void test_bpe_affixes(void)
{
    struct tokenizer *tokenizer = from_text("{'model':{'type':'BPE','end_of_word_suffix':'</w>','vocab':{'l':0,'o':1,"
                                            "'w</w>':2,'ow</w>':3,"
                                            "'low</w>':4,'w':5,'o</w>':6},'merges':['o w</w>','l ow</w>']},"
                                            "'pre_tokenizer':{'type':'Whitespace'},'decoder':{'type':'BPEDecoder'}}");
    EXPECT(tokenizer != NULL);
    expect_ids(tokenizer, "low lo wo", 0, "4 0 6 5 6");
    EXPECT_DECODED(tokenizer, "low lo", 4, 0, 6);  // no space behind the last word
    tokenizer_close(tokenizer);
    tokenizer = from_text("{'model':{'type':'BPE','continuing_subword_prefix':'@@','vocab':{'l':0,'@@o':1,'lo':2,'@@w':3,"
                          "'low':4},"
                          "'merges':['l @@o','lo @@w']}}");
    EXPECT(tokenizer != NULL);
    expect_ids(tokenizer, "low", 0, "4");
    expect_ids(tokenizer, "lo", 0, "2");
    tokenizer_close(tokenizer);
}

/* ---- steps ---- */

/* A tokenizer whose every character is its own token: its text after encoding shows what the normalizer did. */
static void expect_normal(const char *normalizer, const char *text, const char *expected)
{
    char *json = memory_printf("{'model':{'type':'BPE','vocab':{'?':0},'merges':[]},'normalizer':%s}", normalizer);
    struct tokenizer *tokenizer = from_text(json);
    EXPECT(tokenizer != NULL);
    free(json);
    if (tokenizer == NULL)
        return;
    struct normalizer_scratch scratch = { 0 };
    struct buffer out = { 0 };
    normalizer_run(&tokenizer->normalizer, &scratch, text, strlen(text), &out);
    buffer_append(&out, "", 1);
    EXPECT_TEXT(out.data, expected);
    free(out.data);
    normalizer_scratch_free(&scratch);
    tokenizer_close(tokenizer);
}

/* Goal: what each normalizer makes of a text. */
static void test_normalizers(void)
{
    expect_normal("{'type':'BertNormalizer'}", "\xc3\x89t\xc3\xa9\x01\t\xe4\xbd\xa0x", "ete  \xe4\xbd\xa0 x");
    expect_normal("{'type':'BertNormalizer','lowercase':false}", "\xc3\x89\xe4\xbd\xa0", "\xc3\x89 \xe4\xbd\xa0 ");
    expect_normal("{'type':'BertNormalizer','lowercase':true,'strip_accents':false}", "\xc3\x89", "\xc3\xa9");
    expect_normal("{'type':'BertNormalizer','clean_text':false,'handle_chinese_chars':false}", "A\t\xe4\xbd\xa0",
                  "a\t\xe4\xbd\xa0");
    expect_normal("{'type':'Lowercase'}", "A\xc3\x9f\xc4\xb0\xce\xa3", "a\xc3\x9fi\xcc\x87\xcf\x83");
    expect_normal("{'type':'Strip','strip_left':false,'strip_right':true}", " a\xe3\x80\x80\n", " a");
    expect_normal("{'type':'Strip'}", "\t a b ", "a b");
    expect_normal("{'type':'Strip'}", " \n ", "");
    expect_normal("{'type':'StripAccents'}", "e\xcc\x81\xc3\xa9", "e\xc3\xa9");
    expect_normal("{'type':'Nmt'}", "a\x01\n\xe2\x80\x8b" MARK "b", "a   b");
    expect_normal("{'type':'Replace','pattern':{'Regex':' {2,}'},'content':'_'}", "a  b c   ", "a_b c_");
    expect_normal("{'type':'Replace','pattern':{'String':'ab'},'content':''}", "abcab", "c");
    expect_normal("{'type':'ByteLevel'}", " \xc3\xa9", "\xc4\xa0\xc3\x83\xc2\xa9");
    expect_normal("{'type':'Sequence','normalizers':[{'type':'Sequence','normalizers':[{'type':'NFD'},"
                  "{'type':'StripAccents'}]},"
                  "{'type':'Prepend','prepend':'>'}]}", "\xc3\xa9", ">e");
}

static void print_word(void *context, const char *word, size_t size)
{
    buffer_printf(context, "[%.*s]", (int)size, word);
}

static void expect_words(const char *pretokenizer, const char *text, const char *expected)
{
    char *json = memory_printf("{'model':{'type':'BPE','vocab':{'?':0},'merges':[]},'pre_tokenizer':%s}", pretokenizer);
    struct tokenizer *tokenizer = from_text(json);
    EXPECT(tokenizer != NULL);
    free(json);
    if (tokenizer == NULL)
        return;
    struct pretokenizer_scratch scratch = { 0 };
    struct buffer out = { 0 };
    pretokenizer_run(&tokenizer->pretokenizer, &scratch, text, strlen(text), true, print_word, &out);
    buffer_append(&out, "", 1);
    EXPECT_TEXT(out.data, expected);
    free(out.data);
    pretokenizer_scratch_free(&scratch);
    tokenizer_close(tokenizer);
}

/* Goal: where each pre-tokenizer cuts. */
static void test_pretokenizers(void)
{
    expect_words("{'type':'BertPreTokenizer'}", " Hey, you?!\xc2\xa1 ", "[Hey][,][you][?][!][\xc2\xa1]");
    expect_words("{'type':'Whitespace'}", "a_b c--d \xc3\xa9", "[a_b][c][--][d][\xc3\xa9]");
    expect_words("{'type':'WhitespaceSplit'}", "\ta,b\xe3\x80\x80 c", "[a,b][c]");
    expect_words("{'type':'Punctuation'}", "a,.b", "[a][,][.][b]");
    expect_words("{'type':'Punctuation','behavior':'Removed'}", "a,.b", "[a][b]");
    expect_words("{'type':'Punctuation','behavior':'MergedWithPrevious'}", "a,.b", "[a,][.][b]");
    expect_words("{'type':'Punctuation','behavior':'MergedWithNext'}", "a,.b", "[a][,][.b]");
    expect_words("{'type':'Punctuation','behavior':'Contiguous'}", "a,.b", "[a][,.][b]");
    expect_words("{'type':'CharDelimiterSplit','delimiter':'-'}", "a--b-c", "[a][b][c]");
    // A match of nothing is a cut.
    expect_words("{'type':'Split','pattern':{'Regex':'(?=[A-Z])'},'behavior':'Isolated'}", "aBCd", "[a][B][Cd]");
    expect_words("{'type':'Split','pattern':{'Regex':'(?=[A-Z])'},'behavior':'Contiguous'}", "aBCd", "[a][B][Cd]");
    // U+31350 and U+10D40 are a letter and a digit since Unicode 15 and 16, which the library knows and PCRE2 does not.
    expect_words("{'type':'Split','pattern':{'Regex':'\\\\p{L}+|\\\\d'},'behavior':'Isolated'}",
                 "a\xf0\xb1\x8d\x90-\xf0\x90\xb5\x80,",
                 "[a\xf0\xb1\x8d\x90][-][\xf0\x90\xb5\x80][,]");
    expect_words("{'type':'Split','pattern':{'Regex':'[^\\\\p{L}\\\\s]|\\\\P{L}'},'behavior':'Isolated'}",
                 "a\xf0\xb1\x8d\x90- b",
                 "[a\xf0\xb1\x8d\x90][-][ ][b]");
    // What the library reads otherwise than PCRE2: symbols are punctuation, a comma that Han shares is not Han's, \h is a digit to
    // base 16, a mark ends no word, and a superscript is of a word, but not between brackets.
    expect_words("{'type':'Split','pattern':{'Regex':'[[:punct:]]'},'behavior':'Isolated'}", "a\xc2\xa3,b", "[a][\xc2\xa3][,][b]");
    expect_words("{'type':'Split','pattern':{'Regex':'\\\\p{Han}'},'behavior':'Isolated'}", "\xe4\xb8\xad\xe3\x80\x81" "b",
                 "[\xe4\xb8\xad][\xe3\x80\x81" "b]");
    expect_words("{'type':'Split','pattern':{'Regex':'\\\\h+'},'behavior':'Isolated'}", "xyfa 9", "[xy][fa][ ][9]");
    expect_words("{'type':'Split','pattern':{'Regex':'\\\\b'},'behavior':'Isolated'}", "ed\xcc\x80 f", "[ed\xcc\x80][ ][f]");
    expect_words("{'type':'Split','pattern':{'Regex':'[\\\\w]+|\\\\w'},'behavior':'Isolated'}", "a\xc2\xb2\xc2\xb2",
                 "[a][\xc2\xb2][\xc2\xb2]");
}

/* Goal: "first" puts the mark before what begins the text itself, as the library counts: not where a normalizer dropped it. */
static void test_metaspace_first(void)
{
    static const char json[] = "{'model':{'type':'Unigram','unk_id':0,'vocab':[['?',0],['a',-1],['" MARK "',-1],['<s>',0]]},"
                               "'normalizer':{'type':'Strip'},'pre_tokenizer':{'type':'Metaspace','prepend_scheme':'first'},"
                               "'added_tokens':[{'id':3,'content':'<s>','special':true,'normalized':false}]}";
    struct tokenizer *tokenizer = from_text(json);
    EXPECT(tokenizer != NULL);
    expect_ids(tokenizer, "a", 0, "2 1");
    expect_ids(tokenizer, " a", 0, "1");
    expect_ids(tokenizer, "<s>a", ENCODE_MARKUP, "3 1");
    tokenizer_close(tokenizer);
}

/* ---- pairs, plain parts ---- */

#define TWO_MODEL "'model':{'type':'WordLevel','unk_token':'?','vocab':{'?':0,'a':1,'b':2,'<c>':3,'<s>':4}}"

static void expect_pair(const char *json, const char *expected_ids, const char *expected_types)
{
    struct tokenizer *tokenizer = from_text(json);
    EXPECT(tokenizer != NULL);
    if (tokenizer == NULL)
        return;
    struct token_list ids = { 0 }, types = { 0 };
    tokenizer_encode_pair(tokenizer, "a", 1, "b", 1, &ids, &types);
    expect_list(&ids, expected_ids);
    expect_list(&types, expected_types);
    free(ids.at);
    free(types.at);
    tokenizer_close(tokenizer);
}

/* Goal: how two texts are joined by each post-processor, and by none. */
static void test_pairs(void)
{
    expect_pair("{" TWO_MODEL "}", "1 2", "0 1");
    expect_pair("{" TWO_MODEL ",'post_processor':{'type':'BertProcessing','cls':['<c>',3],'sep':['<s>',4]}}", "3 1 4 2 4",
                "0 0 0 1 1");
    expect_pair("{" TWO_MODEL ",'post_processor':{'type':'RobertaProcessing','cls':['<c>',3],'sep':['<s>',4]}}", "3 1 4 4 2 4",
                "0 0 0 0 0 0");
    expect_pair("{" TWO_MODEL ",'post_processor':{'type':'Sequence','processors':[{'type':'ByteLevel'},"
                "{'type':'TemplateProcessing',"
                "'single':[{'Sequence':{'id':'A','type_id':0}}],'pair':[{'SpecialToken':{'id':'<c>','type_id':1}},"
                "{'Sequence':{'id':'A','type_id':0}},{'Sequence':{'id':'B','type_id':2}},{'SpecialToken':{'id':'<s>',"
                "'type_id':3}}],"
                "'special_tokens':{'<c>':{'id':'<c>','ids':[3],'tokens':['<c>']},'<s>':{'id':'<s>','ids':[4,3],"
                "'tokens':['<s>','<c>']}}}]}}",
                "3 1 2 4 3", "1 0 2 3 3");
}

static void expect_around(const char *json, const char *text, size_t start, size_t end, const char *expected)
{
    struct tokenizer *tokenizer = from_text(json);
    EXPECT(tokenizer != NULL);
    if (tokenizer == NULL)
        return;
    struct text_span plain = { start, end };
    struct token_list ids = { 0 };
    tokenizer_encode_around(tokenizer, text, strlen(text), ENCODE_SPECIAL | ENCODE_MARKUP, &plain, 1, &ids);
    expect_list(&ids, expected);
    free(ids.at);
    tokenizer_close(tokenizer);
}

/*
 * Goal: a special token that stands in the plain part, or reaches into it, is text; those around it are tokens.  So it is for
 * tokens looked for before and after normalising, and behind broken UTF-8.
 */
static void test_plain_parts(void)
{
#define AROUND(normalized)                                                                                                 \
    "{'model':{'type':'BPE','unk_token':'?','vocab':{'?':0,'<':1,'s':2,'>':3,'<s>':4,'" MARK "':5},'merges':[]},"          \
    "'normalizer':{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'" MARK "'},"                                  \
    "{'type':'Replace','pattern':{'String':' '},'content':'" MARK "'}]},"                                                      \
    "'added_tokens':[{'id':4,'content':'<s>','special':true,'normalized':" normalized "}]}"
    expect_around(AROUND("false"), "<s><s><s>", 3, 6, "4 5 1 2 3 4");
    expect_around(AROUND("false"), "<s><s>", 4, 5, "4 5 1 2 3");
    expect_around(AROUND("false"), "<s><s>", 3, 3, "4 4");
    expect_around(AROUND("false"), "<s>\xff<s>", 3, 4, "4 5 0 4");
    // The token is looked for as the normaliser leaves it: with the mark before it.
    expect_around(AROUND("true"), "<s> <s> <s>", 3, 7, "4 5 1 2 3 4");
    expect_around(AROUND("true"), "<s> <s> <s>", 0, 3, "5 1 2 3 4 4");
    expect_around(AROUND("true"), "<s> <s> <s>", 0, 0, "4 4 4");
    expect_around(AROUND("true"), " <s>\xff <s> <s>", 6, 9, "5 4 0 5 1 2 3 4");
}

/* ---- decoders ---- */

/* Goal: WordPiece's clean-up looks at each token with the space before it; special tokens give nothing and begin nothing. */
static void test_wordpiece_decoder(void)
{
    struct tokenizer *tokenizer = from_text("{'model':{'type':'WordLevel','unk_token':'.','vocab':{'.':0,'do':1,'n\\u0027t':2,"
                                            "'[X]':3,'##s':4}},"
                                            "'decoder':{'type':'WordPiece'},'added_tokens':[{'id':3,'content':'[X]',"
                                            "'special':true}]}");
    EXPECT(tokenizer != NULL);
    EXPECT_DECODED(tokenizer, "don't dos.", 3, 1, 2, 3, 1, 4, 0);
    EXPECT_DECODED(tokenizer, ". do", 3, 0, 1);
    EXPECT_DECODED(tokenizer, "##s", 4);  // the first token is left as it is
    tokenizer_close(tokenizer);
}

/* Goal: Metaspace drops the marks of the first token, even where they are all of it; Strip counts over tokens, or by token. */
static void test_other_decoders(void)
{
    static const char model[] = "{'model':{'type':'WordLevel','unk_token':'?','vocab':{'?':0,'" MARK "':1,'" MARK "a':2,"
                                "'" MARK MARK "b':3,"
                                "'--':4,'-c':5}},'decoder':%s}";
    static const struct {
        const char *decoder, *text;
        int32_t ids[4];
    } cases[] = {
        { "{'type':'Metaspace'}", "a a", { 2, 2 } }, { "{'type':'Metaspace'}", " a", { 1, 2 } },
        { "{'type':'Metaspace'}", "b  b", { 3, 3 } }, { "{'type':'Metaspace','prepend_scheme':'never'}", " a a", { 2, 2 } },
        { "{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'Strip','content':'-','start':3,'stop':0}]}", "c-c",
          { 4, 5, 5 } },
        { "{'type':'Strip','content':'-','start':1,'stop':0}", "-cc", { 4, 5, 5 } },
        { "null", "-- -c", { 4, 5 } },
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char *json = memory_printf(model, cases[i].decoder);
        struct tokenizer *tokenizer = from_text(json);
        EXPECT(tokenizer != NULL);
        size_t count = 0;
        while (cases[i].ids[count] != 0)
            count++;
        if (tokenizer != NULL)
            expect_text(tokenizer, cases[i].ids, count, cases[i].text);
        tokenizer_close(tokenizer);
        free(json);
    }
}

/* ---- what is refused ---- */

/* Goal: a broken file of each kind gives one line that names it. */
static void test_refusals(void)
{
#define WORDS "'model':{'type':'WordLevel','unk_token':'?','vocab':{'?':0}}"
#define SINGLE "'single':[{'Sequence':{'id':'A','type_id':0}}]"
    static const char *const refused[] = {
        "{'model':{'type':'Unigram'}}", "{'model':{'type':'Unigram','vocab':{}}}",
        "{'model':{'type':'Unigram','vocab':[['a']]}}",
        "{'model':{'type':'Unigram','vocab':[['a',-1],['a',-2]]}}", "{'model':{'type':'Unigram','vocab':[['a','b']]}}",
        "{'model':{'type':'Unigram','vocab':[[1,-1]]}}", "{'model':{'type':'Unigram','vocab':[['a',-1]],'unk_id':1}}",
        "{'model':{'type':'Unigram','vocab':[['a',-1]],'unk_id':-1}}",
        "{'model':{'type':'Unigram','vocab':[['a',-1]],'unk_id':'a'}}",
        "{'model':{'type':'Unigram','vocab':[['a',-1]],'byte_fallback':1}}",
        "{'model':{'type':'WordPiece','vocab':{'a':0}}}", "{'model':{'type':'WordPiece','vocab':[]}}",
        "{'model':{'type':'WordPiece','vocab':{'[UNK]':0},'max_input_chars_per_word':-1}}",
        "{'model':{'type':'WordPiece','vocab':{'[UNK]':0},'continuing_subword_prefix':7}}",
        "{'model':{'type':'WordLevel','vocab':{'a':0}}}", "{'model':{'type':'WordLevel','unk_token':'?'}}",
        "{'model':{'type':'BPE','continuing_subword_prefix':'@@','vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}}",
        "{" WORDS ",'normalizer':{'type':'Strip','strip_left':1}}",
        "{" WORDS ",'normalizer':{'type':'BertNormalizer','lowercase':'a'}}",
        "{" WORDS ",'normalizer':{'type':'Precompiled','precompiled_charsmap':'*'}}",
        "{" WORDS ",'normalizer':{'type':'Precompiled','precompiled_charsmap':''}}",
        "{" WORDS ",'normalizer':{'type':'Precompiled','precompiled_charsmap':'BAAAAA=='}}",
        "{" WORDS ",'normalizer':{'type':'Precompiled','precompiled_charsmap':7}}",
        "{" WORDS ",'normalizer':{'type':'Replace','pattern':{'Regex':'('},'content':''}}",
        "{" WORDS ",'normalizer':{'type':'Replace','pattern':{'Regex':7},'content':''}}",
        "{" WORDS ",'normalizer':{'type':'Replace','pattern':{'Regex':'[[:^punct:]]'},'content':''}}",
        "{" WORDS ",'normalizer':{'type':'Replace','pattern':{'Regex':'^'},'content':''}}",
        "{" WORDS ",'normalizer':{'type':'Sequence'}}", "{" WORDS ",'normalizer':{'type':'Odd'}}",
        "{" WORDS ",'normalizer':{}}",
        "{" WORDS ",'pre_tokenizer':{'type':'Punctuation','behavior':'Odd'}}",
        "{" WORDS ",'pre_tokenizer':{'type':'CharDelimiterSplit','delimiter':'ab'}}",
        "{" WORDS ",'pre_tokenizer':{'type':'CharDelimiterSplit'}}", "{" WORDS ",'pre_tokenizer':{'type':'UnicodeScripts'}}",
        "{" WORDS ",'post_processor':{'type':'BertProcessing'}}",
        "{" WORDS ",'post_processor':{'type':'BertProcessing','cls':['?',0]}}",
        "{" WORDS ",'post_processor':{'type':'TemplateProcessing','single':[]}}",
        "{" WORDS ",'post_processor':{'type':'TemplateProcessing'," SINGLE ",'pair':[{'Sequence':{'id':'A','type_id':0}}]}}",
        "{" WORDS ",'post_processor':{'type':'TemplateProcessing'," SINGLE ",'pair':[{'Sequence':{'id':'B','type_id':0}},"
        "{'Sequence':{'id':'A','type_id':0}}]}}",
        "{" WORDS ",'post_processor':{'type':'TemplateProcessing'," SINGLE ",'pair':[7]}}",
        "{" WORDS ",'post_processor':{'type':'TemplateProcessing','single':[{'Sequence':{'id':'A','type_id':-1}}]}}",
        "{" WORDS ",'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x','type_id':0}}]}}",
        "{" WORDS ",'post_processor':{'type':'Sequence','processors':[{'type':'BertProcessing','cls':['?',0],'sep':['?',0]},"
        "{'type':'BertProcessing','cls':['?',0],'sep':['?',0]}]}}",
        "{" WORDS ",'decoder':{'type':'WordPiece','prefix':7}}", "{" WORDS ",'decoder':{'type':'WordPiece','cleanup':7}}",
        "{" WORDS ",'decoder':{'type':'BPEDecoder','suffix':''}}", "{" WORDS ",'decoder':{'type':'Strip','content':'ab'}}",
        "{" WORDS ",'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'WordPiece'}]}}",
        "{" WORDS ",'added_tokens':7}",
    };
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        stderr_hold();
        struct tokenizer *tokenizer = from_text(refused[i]);
        const char *said = stderr_release(), *newline = strchr(said, '\n');
        if (tokenizer != NULL)
            TEST_FAIL("case %zu was accepted: %s", i, refused[i]);
        if (newline == NULL || newline[1] != '\0' || strstr(said, "tokenizer \"test\"") == NULL)
            TEST_FAIL("case %zu is not refused in one line with the tokenizer's name: %s", i, said);
        tokenizer_close(tokenizer);
    }
}

/*
 * Goal: a map of characters by hand: "a" becomes "xy", and so does "a" with a mark, whose grapheme begins with it.  Cut
 * anywhere it is refused or a smaller map; with any byte changed it does no harm.
 *
 * The trie: the root's children at offset 1, 'a' at 1 ^ 'a' = 96; its leaf at 96 ^ 32 = 64 has the value 0.
 */
static void test_charsmap(void)
{
    enum { UNITS = 97, FORMS = 3, SIZE = 4 + 4 * UNITS + FORMS };
    unsigned char map[SIZE] = { 4 * UNITS & 0xff, 4 * UNITS >> 8 };
    const uint32_t root = 1u << 10, letter = 32u << 10 | 1u << 8 | 'a', leaf = 1u << 31;
    memcpy(map + 4, &root, 4);
    memcpy(map + 4 + 4 * 96, &letter, 4);
    memcpy(map + 4 + 4 * 64, &leaf, 4);
    memcpy(map + 4 + 4 * UNITS, "xy", FORMS);
    static const char text[] = "ba\xcc\x81\r\na";
    const char *reason = NULL;
    struct charsmap *charsmap = charsmap_open(map, SIZE, &reason);
    EXPECT(charsmap != NULL);
    struct buffer out = { 0 };
    charsmap_run(charsmap, text, strlen(text), &out);
    buffer_append(&out, "", 1);
    EXPECT_TEXT(out.data, "bxy\r\nxy");
    EXPECT_INT(charsmap_form_max(charsmap), 2);
    charsmap_free(charsmap);
    for (size_t size = 0; size < SIZE; size++) {
        reason = NULL;
        EXPECT(charsmap_open(map, size, &reason) == NULL && reason != NULL);
    }
    for (size_t at = 0; at < SIZE; at++) {
        for (unsigned flip = 1; flip < 256; flip = 2 * flip + 1) {
            map[at] ^= (unsigned char)flip;
            charsmap = charsmap_open(map, SIZE, &reason);
            out.size = 0;
            if (charsmap != NULL)
                charsmap_run(charsmap, text, strlen(text), &out);
            EXPECT_INT(utf8_valid_prefix(out.data, out.size), out.size);
            charsmap_free(charsmap);
            map[at] ^= (unsigned char)flip;
        }
    }
    free(out.data);
}

/* Goal: a text of a million characters takes time in proportion, whatever the model. */
static void test_long_words(void)
{
    enum { SIZE = 1 << 20 };
    static const char *const models[] = {
        "{'model':{'type':'Unigram','unk_id':0,'vocab':[['?',0],['a',-1],['aa',-1.5],['aaaaaaaa',-3]]}}",
        "{'model':{'type':'WordPiece','unk_token':'?','vocab':{'?':0,'a':1,'##a':2,'##aaaaaaaa':3},"
        "'max_input_chars_per_word':1048576}}",
    };
    char *text = memory_alloc(SIZE, 1);
    memset(text, 'a', SIZE);
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        struct tokenizer *tokenizer = from_text(models[i]);
        struct token_list ids = { 0 };
        EXPECT(tokenizer != NULL);
        if (tokenizer != NULL)
            tokenizer_encode(tokenizer, text, SIZE, 0, &ids);
        EXPECT(ids.count >= SIZE / 8 && ids.count <= SIZE / 8 + 8);
        free(ids.at);
        tokenizer_close(tokenizer);
    }
    free(text);
}

int main(void)
{
    log_open("test_tokenizer_kinds", -1);
    RUN(test_unigram_by_hand);
    RUN(test_unigram_bytes_and_special);
    RUN(test_wordpiece_by_hand);
    RUN(test_wordlevel_by_hand);
    RUN(test_bpe_affixes);
    RUN(test_normalizers);
    RUN(test_pretokenizers);
    RUN(test_metaspace_first);
    RUN(test_pairs);
    RUN(test_plain_parts);
    RUN(test_wordpiece_decoder);
    RUN(test_other_decoders);
    RUN(test_refusals);
    RUN(test_charsmap);
    RUN(test_long_words);
    return tests_end();
}
