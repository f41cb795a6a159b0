/* pretok.c -- splits text into the pieces that BPE merges never cross.
 *
 * The expressions are those of the model families, with three of their parts spelled out. White
 * space is Unicode's White_Space property: PCRE2's own \s also takes U+180E. Letters and numbers
 * are PCRE2's and those of pretok_unicode.h. And smollm, which puts every
 * digit apart *before* it applies GPT-2's expression, is written as one expression: a digit ends
 * the text for the look-ahead, so white space before a digit is not left a character short.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "models/text/pretok.h"

#include <pcre2.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "models/text/pretok_unicode.h"

struct pretok {
    pcre2_code *code;
    bool whole_words;
    bool adds_bos;
};

/* For use inside a character class: white space, letters, numbers. */
#define WS                                                                                  \
    "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}" \
    "\\x{205f}\\x{3000}"
#define L "\\p{L}" PRETOK_UNICODE_LETTERS
#define N "\\p{N}" PRETOK_UNICODE_NUMBERS
#define DIGIT "\\p{N}" PRETOK_UNICODE_DIGITS

#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"
#define SPACES "[" WS "]+(?![^" WS "])|[" WS "]+"

#define EXPRESSION_GPT2 CONTRACTIONS "| ?[" L "]+| ?[" N "]+| ?[^" WS L N "]+|" SPACES

#define EXPRESSION_SMOLLM                                                                  \
    "[" DIGIT "]|" CONTRACTIONS "| ?[" L "]+| ?[^" WS L DIGIT "]+|[" WS "]+(?![^" WS DIGIT \
    "])|[" WS "]+"

/* digits: how many stay together. */
#define EXPRESSION_TIKTOKEN(digits)                                     \
    "(?i:" CONTRACTIONS ")|[^\\r\\n" L N "]?[" L "]+|[" N "]{1," digits \
    "}"                                                                 \
    "| ?[^" WS L N "]+[\\r\\n]*|[" WS "]*[\\r\\n]+|" SPACES

typedef struct {
    const char *name; /* as in tokenizer.ggml.pre */
    const char *expression;
    bool whole_words;
    bool adds_bos;
} family;

static const family families[] = {
    {"default", EXPRESSION_GPT2, false, false},
    {"gpt2", EXPRESSION_GPT2, false, false},
    {"gpt-2", EXPRESSION_GPT2, false, false},
    {"smollm", EXPRESSION_SMOLLM, false, false},
    {"llama-bpe", EXPRESSION_TIKTOKEN("3"), true, true},
    {"llama3", EXPRESSION_TIKTOKEN("3"), true, true},
    {"qwen2", EXPRESSION_TIKTOKEN("1"), false, false},
};

status pretok_open(str name, pretok **out, diag *d) {
    const family *f = NULL;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (str_equal_z(name, families[i].name)) {
            f = &families[i];
        }
    }
    if (f == NULL) {
        return status_fail_param(d, STATUS_UNSUPPORTED, "tokenizer.ggml.pre",
                                 "the pre-tokenizer '%.*s' is not supported (known are default, "
                                 "gpt2, smollm, llama-bpe and qwen2)",
                                 (int)(name.bytes < 80 ? name.bytes : 80), name.data);
    }
    pretok *p = mem_calloc(1, sizeof *p);
    if (p == NULL) {
        return status_fail(d, STATUS_NOMEM, "no memory for the pre-tokenizer '%s'", f->name);
    }
    int error;
    PCRE2_SIZE error_at;
    p->code = pcre2_compile((PCRE2_SPTR)f->expression, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                            &error, &error_at, NULL);
    if (p->code == NULL) {
        mem_free(p);
        return status_fail(d, STATUS_NOMEM, "the pre-tokenizer '%s' cannot be compiled (PCRE2: %d)",
                           f->name, error);
    }
    /* Where memory may not be made executable this fails, and matching is interpreted instead. */
    (void)pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE);
    p->whole_words = f->whole_words;
    p->adds_bos = f->adds_bos;
    *out = p;
    return STATUS_OK;
}

void pretok_close(pretok *p) {
    if (p != NULL) {
        pcre2_code_free(p->code);
        mem_free(p);
    }
}

bool pretok_whole_words(const pretok *p) {
    return p->whole_words;
}

bool pretok_adds_bos(const pretok *p) {
    return p->adds_bos;
}

status pretok_start(const pretok *p, pretok_run *run, diag *d) {
    *run = (pretok_run){.p = p};
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    run->limits = limits;
    run->match = pcre2_match_data_create(1, NULL);
    if (run->limits == NULL || run->match == NULL) {
        pretok_stop(run);
        return status_fail(d, STATUS_NOMEM, "no memory to match the pre-tokenizer");
    }
    /* Every expression backs off at most once over a run of white space, so the step limit, which
     * is there for expressions that explode, would only refuse long blanks. */
    pcre2_set_match_limit(limits, UINT32_MAX);
    return STATUS_OK;
}

void pretok_stop(pretok_run *run) {
    pcre2_match_data_free(run->match);
    pcre2_match_context_free(run->limits);
    *run = (pretok_run){0};
}

void pretok_text(pretok_run *run, str text) {
    run->text = text;
    run->at = 0;
    run->found = 0;
}

static pretok_result give(pretok_run *run, size_t end, str *piece) {
    CHECK(end > run->at && end <= run->text.bytes);
    *piece = str_of(run->text.data + run->at, end - run->at);
    run->at = end;
    return PRETOK_PIECE;
}

static bool is_ascii_letter(char c) {
    return (unsigned char)((c | 0x20) - 'a') < 26;
}

/* Most words are ASCII letters, perhaps behind a space: every expression above takes those as they
 * are, up to the first character that is no letter. Where such a word ends, or `at` when it is for
 * the expression to say. */
static size_t ascii_word_end(str text, size_t at) {
    size_t end = at + (text.data[at] == ' ');
    size_t letters = end;
    while (end < text.bytes && is_ascii_letter(text.data[end])) {
        end++;
    }
    bool whole = end == text.bytes || (unsigned char)text.data[end] < 0x80;
    return end > letters && whole ? end : at;
}

pretok_result pretok_next(pretok_run *run, str *piece) {
    if (run->at >= run->text.bytes) {
        return PRETOK_END;
    }
    if (run->found > run->at) {
        return give(run, run->found, piece);
    }
    size_t end = ascii_word_end(run->text, run->at);
    if (end > run->at) {
        return give(run, end, piece);
    }
    int n = pcre2_match(run->p->code, (PCRE2_SPTR)run->text.data, run->text.bytes, run->at,
                        PCRE2_NO_UTF_CHECK, run->match, run->limits);
    if (n == PCRE2_ERROR_NOMATCH) {
        return give(run, run->text.bytes, piece);
    }
    if (n < 0) {
        return PRETOK_FAILED;
    }
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(run->match);
    if (ends[0] > run->at) {
        run->found = ends[1];
        return give(run, ends[0], piece);
    }
    return give(run, ends[1], piece);
}
