/* pricetable.c -- one pass over the lines. */
#define _GNU_SOURCE
#include "engine/worker/pricetable.h"

#include <fcntl.h>
#include <unistd.h>

enum { PRICETABLE_NUMBERS = 3 };

static const double pricetable_most = 1e9;

static str pricetable_trim(str s) {
    while (s.bytes && (s.data[0] == ' ' || s.data[0] == '\t')) {
        s = str_of(s.data + 1, s.bytes - 1);
    }
    while (s.bytes && (s.data[s.bytes - 1] == ' ' || s.data[s.bytes - 1] == '\t' ||
                       s.data[s.bytes - 1] == '\r')) {
        s.bytes--;
    }
    return s;
}

/* What stands before the separator; `rest` begins after it. */
static str pricetable_cut(str *rest, char separator) {
    const char *at = rest->bytes ? memchr(rest->data, separator, rest->bytes) : NULL;
    size_t bytes = at ? (size_t)(at - rest->data) : rest->bytes;
    str head = str_of(rest->data, bytes);
    bytes += at ? 1 : 0;
    *rest = str_of(rest->data + bytes, rest->bytes - bytes);
    return head;
}

static bool pricetable_numbers(str text, double out[PRICETABLE_NUMBERS]) {
    int32_t count = 0;
    for (text = pricetable_trim(text); text.bytes > 0; text = pricetable_trim(text)) {
        str word = pricetable_cut(&text, ' ');
        if (count == PRICETABLE_NUMBERS || !str_to_f64(word, &out[count]) || out[count] < 0 ||
            out[count] > pricetable_most) {
            return false;
        }
        count++;
    }
    return count > 0;
}

status pricetable_find(str text, const char *const *names, int32_t count, pricetable_entry *out,
                       diag *d) {
    int32_t best = count;
    *out = (pricetable_entry){0};
    for (int32_t line = 1; text.bytes > 0; line++) {
        str rest = pricetable_cut(&text, '\n');
        rest = pricetable_cut(&rest, '#');
        if (pricetable_trim(rest).bytes == 0) {
            continue;
        }
        str name = pricetable_trim(pricetable_cut(&rest, '='));
        double numbers[PRICETABLE_NUMBERS] = {0};
        if (name.bytes == 0 || !pricetable_numbers(rest, numbers)) {
            return status_fail(d, STATUS_INVALID,
                               "line %d: not NAME = PRICE [TFLOPS [GBPS]], numbers from 0 to 1e9",
                               (int)line);
        }
        for (int32_t i = 0; i < best; i++) {
            if (str_equal_z(name, names[i])) {
                best = i;
                *out = (pricetable_entry){true, numbers[0], numbers[1], numbers[2]};
            }
        }
    }
    return STATUS_OK;
}

status pricetable_read(const char *path, const char *const *names, int32_t count,
                       pricetable_entry *out, diag *d) {
    strbuf text = strbuf_make(PRICETABLE_BYTES);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return status_fail_errno(d, STATUS_IO, "%s", path);
    }
    ssize_t n = 1;
    while (n > 0 && strbuf_reserve(&text, 4096)) {
        n = read(fd, text.data + text.bytes, 4096);
        text.bytes += n > 0 ? (size_t)n : 0;
    }
    status s = STATUS_OK;
    if (n != 0) {
        s = n < 0 ? status_fail_errno(d, STATUS_IO, "%s", path)
                  : status_fail(d, STATUS_LIMIT, "%s: more than %d bytes", path, PRICETABLE_BYTES);
    } else {
        diag why;
        s = pricetable_find(strbuf_str(&text), names, count, out, &why);
        if (s != STATUS_OK) {
            s = status_fail(d, s, "%s: %s", path, why.text);
        }
    }
    (void)close(fd);
    strbuf_close(&text);
    return s;
}
