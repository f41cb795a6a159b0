/* detok.c -- token ids back to text, one at a time.
 *
 * Broken bytes follow the practice of "maximal subparts" (The Unicode Standard, section 3.9, which
 * Python and WHATWG follow too): the longest start of a well-formed character that the bytes could
 * still have been becomes one U+FFFD, then reading goes on with the byte that broke it.
 */
#include "models/text/detok.h"

static bool put_replacement(strbuf *out) {
    return strbuf_append(out, "\xEF\xBF\xBD", 3);
}

/* Bytes of the broken character at data[bytes], which str_utf8_next refused. */
static size_t broken_bytes(const char *data, size_t bytes) {
    size_t n = bytes < 3 ? bytes : 3;
    uint32_t c;
    while (n > 1 && str_utf8_next(data, n, &c) != 0) {
        n--;
    }
    return n;
}

/* Uses up bytes until nothing is held: the held character is whole or broken. */
static bool finish_held(detok *s, str *bytes, strbuf *out) {
    while (s->held_bytes > 0 && bytes->bytes > 0) {
        uint32_t c;
        s->held[s->held_bytes] = bytes->data[0];
        int n = str_utf8_next(s->held, s->held_bytes + 1u, &c);
        if (n < 0) {
            s->held_bytes = 0; /* the byte just read starts something new */
            return put_replacement(out);
        }
        s->held_bytes++;
        *bytes = str_of(bytes->data + 1, bytes->bytes - 1);
        if (n > 0) {
            s->held_bytes = 0;
            return strbuf_append(out, s->held, (size_t)n);
        }
    }
    return true;
}

bool detok_feed_bytes(detok *s, str bytes, strbuf *out) {
    if (!finish_held(s, &bytes, out)) {
        return false;
    }
    if (bytes.bytes == 0) {
        return true;
    }
    size_t from = 0; /* whole characters from here to `at` are not written yet */
    size_t at = 0;
    while (at < bytes.bytes) {
        uint32_t c;
        int n = str_utf8_next(bytes.data + at, bytes.bytes - at, &c);
        if (n > 0) {
            at += (size_t)n;
            continue;
        }
        if (!strbuf_append(out, bytes.data + from, at - from)) {
            return false;
        }
        if (n == 0) {
            s->held_bytes = (uint8_t)(bytes.bytes - at);
            memcpy(s->held, bytes.data + at, s->held_bytes);
            return true;
        }
        if (!put_replacement(out)) {
            return false;
        }
        at += broken_bytes(bytes.data + at, bytes.bytes - at);
        from = at;
    }
    return strbuf_append(out, bytes.data + from, at - from);
}

bool detok_feed(detok *s, const tokenizer *t, int32_t id, strbuf *out) {
    if (s->skip_special && tokenizer_is_special(t, id)) {
        return true;
    }
    return detok_feed_bytes(s, tokenizer_piece(t, id), out);
}

bool detok_flush(detok *s, strbuf *out) {
    if (s->held_bytes == 0) {
        return true;
    }
    s->held_bytes = 0;
    return put_replacement(out);
}
