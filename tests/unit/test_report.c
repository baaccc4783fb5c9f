/* What a report is made of: text that is safe, columns, ticks. */
#include "report/print.h"
#include "report/svg.h"
#include "../check.h"

static const char *html_of(const char *text)
{
    static struct buffer out;
    out.size = 0;
    html_text(&out, text);
    buffer_append(&out, "", 1);
    return out.data;
}

/* Goal: no text can become markup, move a cursor, turn the direction of writing or break the page's UTF-8. */
static void test_text_is_safe(void)
{
    EXPECT_TEXT(html_of("a<b>&\"'"), "a&lt;b&gt;&amp;&quot;&#39;");
    EXPECT_TEXT(html_of("caf\xC3\xA9\n\t\xF0\x9F\x98\x80"), "caf\xC3\xA9\n\t\xF0\x9F\x98\x80");
    EXPECT_TEXT(html_of("\x1b[2J\r\x7F"), "\xEF\xBF\xBD[2J\xEF\xBF\xBD\xEF\xBF\xBD");
    EXPECT_TEXT(html_of("\xE2\x80\xAE" "abc\xC2\x9B"), "\xEF\xBF\xBD" "abc\xEF\xBF\xBD");  // U+202E, U+009B
    EXPECT_TEXT(html_of("\xFFx\xC3"), "\xEF\xBF\xBDx\xEF\xBF\xBD");
}

/* Goal: columns wrap at spaces, at line ends and, where there is no space, anywhere; wide characters count twice. */
static void test_columns(void)
{
    struct buffer out = { 0 };
    print_columns(&out, (const char *[]){ "one two three", "a\nbcdefghijk" }, 2, 18);  // 8 columns each
    buffer_append(&out, "", 1);
    EXPECT_TEXT(out.data, "one two   a\nthree     bcdefghi\n          jk\n");
    out.size = 0;
    print_columns(&out, (const char *[]){ "\xE4\xBD\xA0\xE5\xA5\xBD\xE4\xBD\xA0" }, 1, 5);  // three characters, two columns each
    buffer_append(&out, "", 1);
    EXPECT_TEXT(out.data, "\xE4\xBD\xA0\xE5\xA5\xBD\n\xE4\xBD\xA0\n");
    out.size = 0;
    print_columns(&out, (const char *[]){ "" }, 1, 5);
    buffer_append(&out, "", 1);
    EXPECT_TEXT(out.data, "\n");
    free(out.data);
}

/* Goal: ticks are round, within the scale, ascending and not too many, whatever the scale. */
static void test_ticks(void)
{
    double ticks[SVG_TICKS_MAX];
    struct svg_scale scale = { .low = 0.3, .high = 0.97, .from = 300, .to = 0 };
    size_t count = svg_ticks(ticks, &scale, 7);
    EXPECT_INT(count, 7);
    EXPECT_NEAR(ticks[0], 0.3, 1e-12);
    EXPECT_NEAR(ticks[6], 0.9, 1e-12);

    for (int power = -12; power <= 30; power++) {
        for (int root = 0; root < 2; root++) {
            scale = (struct svg_scale){ .low = root ? 0 : -pow(10, power), .high = 3 * pow(10, power), .to = 500, .root = root };
            count = svg_ticks(ticks, &scale, 6);
            EXPECT(2 <= count && count <= SVG_TICKS_MAX);
            for (size_t i = 0; i < count; i++)
                EXPECT(scale.low * (1 + 1e-9) <= ticks[i] && ticks[i] <= scale.high * (1 + 1e-9)
                       && (i == 0 || ticks[i - 1] < ticks[i]));
        }
    }
}

/* Goal: scales map their ends to the pixels given; nothing, one value and equal values still make a scale. */
static void test_scales(void)
{
    struct svg_scale root = { .low = 0, .high = 16, .from = 100, .to = 500, .root = true };
    EXPECT_NEAR(svg_at(&root, 0), 100, 1e-12);
    EXPECT_NEAR(svg_at(&root, 4), 300, 1e-12);
    EXPECT_NEAR(svg_at(&root, 16), 500, 1e-12);
    double ends[][2] = { { NAN, NAN }, { INFINITY, -INFINITY }, { 0, 0 }, { 5, 5 }, { -1e30, 1e30 } };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct svg_scale scale = svg_scale_around(ends[i][0], ends[i][1], 0, 1);
        EXPECT(isfinite(scale.low) && isfinite(scale.high) && scale.low < scale.high);
    }
}

/* Goal: numbers have the digits they need. */
static void test_numbers(void)
{
    char text[32];
    static const struct { double value; const char *text; } numbers[] = {
        { 0, "0" }, { 1e-15, "0" }, { 0.25, "0.25" }, { -1.5, "\xE2\x88\x92" "1.5" }, { 12000, "12000" }, { 2e9, "2e+09" },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        svg_number(text, numbers[i].value);
        EXPECT_TEXT(text, numbers[i].text);
    }
    EXPECT_INT(estimate_digits((struct estimate){ 0.5, 0.02 }), 3);
    EXPECT_INT(estimate_digits((struct estimate){ 0.004, 0.0003 }), 4);
    EXPECT_INT(estimate_digits((struct estimate){ 123, NAN }), 1);
}

int main(void)
{
    RUN(test_text_is_safe);
    RUN(test_columns);
    RUN(test_ticks);
    RUN(test_scales);
    RUN(test_numbers);
    return tests_end();
}
