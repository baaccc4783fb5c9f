/* character.c - see character.h. */
#include "text/character.h"

#include <utf8proc.h>

#include "base/check.h"

struct range {
    uint32_t first, last;
};
struct shift {
    uint32_t first, last;
    int32_t distance;
};
#include "text/character_tables.h"

static bool in_ranges(const struct range *ranges, size_t count, uint32_t character)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (ranges[middle].last < character)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && ranges[low].first <= character;
}
#define IN_RANGES(table, character) in_ranges(table, COUNT_OF(table), character)

#define BIT(category) (1u << UTF8PROC_CATEGORY_##category)
enum {
    PUNCTUATION = BIT(PC) | BIT(PD) | BIT(PS) | BIT(PE) | BIT(PI) | BIT(PF) | BIT(PO),
    MARKS = BIT(MN) | BIT(MC) | BIT(ME),
    WORDS = BIT(LU) | BIT(LL) | BIT(LT) | BIT(LM) | BIT(LO) | MARKS | BIT(ND) | BIT(NL) | BIT(PC),
    SPACES = BIT(ZS) | BIT(ZL) | BIT(ZP),
    CONTROLS = BIT(CC) | BIT(CF) | BIT(CO),
};

static bool has_category(uint32_t character, unsigned categories)
{
    return 1u << utf8proc_category((utf8proc_int32_t)character) & categories;
}

bool character_is_space(uint32_t character)
{
    if (character < 0x80)
        return character == ' ' || (character >= '\t' && character <= '\r');
    return character == 0x85 || has_category(character, SPACES);
}

bool character_is_word(uint32_t character)
{
    return has_category(character, WORDS) != IN_RANGES(word_xor, character);
}

bool character_is_control(uint32_t character)
{
    return has_category(character, CONTROLS) != IN_RANGES(control_xor, character);
}

bool character_is_nonspacing(uint32_t character)
{
    return character >= 0x300 && has_category(character, BIT(MN)) != IN_RANGES(nonspacing_xor, character);
}

bool character_is_combining(uint32_t character)
{
    return character >= 0x300 && has_category(character, MARKS) != IN_RANGES(combining_xor, character);
}

bool character_is_punctuation(uint32_t character)
{
    if (character < 0x80)
        return character > ' ' && character < 0x7f && !(character >= '0' && character <= '9')
               && !((character | 0x20) >= 'a' && (character | 0x20) <= 'z');
    return has_category(character, PUNCTUATION) != IN_RANGES(punctuation_xor, character);
}

bool character_is_chinese(uint32_t character)
{
    static const struct range chinese[] = {
        { 0x3400, 0x4dbf }, { 0x4e00, 0x9fff }, { 0xf900, 0xfaff }, { 0x20000, 0x2a6df }, { 0x2a700, 0x2b73f },
        { 0x2b740, 0x2b81f }, { 0x2b920, 0x2ceaf }, { 0x2f800, 0x2fa1f },
    };
    return character >= 0x3400 && IN_RANGES(chinese, character);
}

bool character_is_formless(uint32_t character)
{
    return character >= 0x300 && IN_RANGES(formless, character);
}

size_t character_lower(uint32_t character, uint32_t lower[2])
{
    if (character == 0x130) {  // I with a dot: the only one that becomes two
        lower[0] = 'i';
        lower[1] = 0x307;
        return 2;
    }
    lower[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)character);
    for (size_t i = 0; lower[0] == character && character > 0x500 && i < COUNT_OF(lower_more); i++) {
        if (lower_more[i].first <= character && character <= lower_more[i].last)
            lower[0] = (uint32_t)((int32_t)character + lower_more[i].distance);
    }
    return 1;
}

size_t character_before(const char *text, size_t end)
{
    size_t start = end - 1;
    while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
        start--;
    return start;
}
