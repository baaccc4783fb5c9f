/*
 * character.h - what a character is to the tokenizers library.
 *
 * Its tables of Unicode are of several ages: the categories that BERT's steps ask for are Unicode 8's, the normal forms
 * Unicode 12's, letters and small letters Unicode 16's.  utf8proc has Unicode 15; character_tables.h has the differences.
 */
#ifndef TEXT_CHARACTER_H
#define TEXT_CHARACTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool character_is_space(uint32_t character);        // Unicode's White_Space
bool character_is_word(uint32_t character);         // \w of Rust's regular expressions
bool character_is_control(uint32_t character);      // BERT's: controls, formats, private use
bool character_is_nonspacing(uint32_t character);   // BERT's accents
bool character_is_combining(uint32_t character);    // StripAccents's
bool character_is_punctuation(uint32_t character);  // and every symbol of ASCII
bool character_is_chinese(uint32_t character);      // BERT's: what it puts spaces around
/* Characters that no normal form changes, orders or composes, though newer tables do. */
bool character_is_formless(uint32_t character);

/* Writes the small letters of a character, one or two, and returns how many. */
size_t character_lower(uint32_t character, uint32_t lower[2]);

/* Where the character that ends at end begins; text is valid UTF-8, end > 0. */
size_t character_before(const char *text, size_t end);

#endif
