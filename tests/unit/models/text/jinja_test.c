/* jinja_test.c -- the interpreter's meaning, errors, limits, and what broken templates do to it.
 *
 * What the tables expect was rendered by jinja2 3.1.6 in the environment jinja.h names; thousands
 * more cases are compared by tests/golden/check_chat.py.
 */
#define _GNU_SOURCE
#include "models/text/jinja.h"

#include <criterion/criterion.h>

#include "engine/base/rng.h"
#include "models/text/chat.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char input[] =
    "{\"s\": \"Hello\", \"u\": \"Gr\\u00fc\\u00dfe \\ud83d\\ude00\", \"l\": [3, 1, 2],"
    " \"d\": {\"b\": 1, \"a\": null}, \"n\": 7, \"f\": 2.5, \"t\": true, \"nothing\": null,"
    " \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"},"
    " {\"role\": \"assistant\", \"content\": \"Yo\"}]}";

enum { OUTPUT_BYTES_MAX = 1 << 20 };

/* Opens and renders; the text goes to `out`. */
static status render(str source, strbuf *out, diag *d) {
    chat *c = NULL;
    status s = chat_open(source, &c, d);
    if (s == STATUS_OK) {
        s = chat_render_json(c, str_from(input), 0, OUTPUT_BYTES_MAX, out, d);
        chat_close(c);
    }
    return s;
}

typedef struct {
    const char *source, *expected;
} row;

static void expect_rows(const row *rows, size_t count) {
    for (size_t i = 0; i < count; i++) {
        strbuf out = strbuf_make(OUTPUT_BYTES_MAX);
        diag d = {.code = STATUS_OK};
        status s = render(str_from(rows[i].source), &out, &d);
        cr_expect_eq(s, STATUS_OK, "%s: %s", rows[i].source, d.text);
        cr_expect_str_eq(out.data ? out.data : "", rows[i].expected, "%s", rows[i].source);
        strbuf_close(&out);
    }
}

Test(jinja, prints_values_as_python_does) {
    static const row rows[] = {
        {"{{ 1 }} {{ 1.0 }} {{ 1e16 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ true }} {{ none }}",
         "1 1.0 1e+16 0.30000000000000004 1e-05 True None"},
        {"{{ [1, 'a', 2.5, none, true] }}", "[1, 'a', 2.5, None, True]"},
        {"{{ {'k': (1,), 2: []} }}", "{'k': (1,), 2: []}"},
        {"{{ [\"it's\", 'say \"x\"', '\\n\\\\'] }}", "[\"it's\", 'say \"x\"', '\\n\\\\']"},
        {"{{ ['\\u200b\\xa0é'] }}", "['\\u200b\\xa0é']"},
        {"{{ range(3) }} {{ d.items() }}", "range(0, 3) dict_items([('b', 1), ('a', None)])"},
        {"{{ namespace(a=1) }}", "<Namespace {'a': 1}>"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, undefined_is_silent_until_used) {
    static const row rows[] = {
        {"[{{ x }}]{{ x is defined }}{{ 'y' if x else 'n' }}", "[]Falsen"},
        {"{{ x ~ 'a' }}{{ x|default('z') }}{{ x|length }}", "az0"},
        {"{% for i in x %}a{% else %}none{% endfor %}", "none"},
        {"{{ d.zz }}{{ d.zz is defined }}{{ d.b is defined }}", "FalseTrue"},
        {"{{ l[9] }}{{ s[99] }}{{ l[9] is defined }}", "False"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, arithmetic_and_comparison) {
    static const row rows[] = {
        {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7.5 % "
         "-2 }}",
         "3 -4 2 3.5 1024 0.5 -0.5"},
        {"{{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ [1] == (1,) }} {{ 1 < 2 < 3 }} {{ 1 < 3 "
         "< 2 }}",
         "True True False False True False"},
        {"{{ 'a' in 'abc' }} {{ 3 in l }} {{ 'b' in d }} {{ 1 not in l }}", "True True True False"},
        {"{{ 'ab' * 2 }} {{ [1] + [2] }} {{ 1 ~ 2 }} {{ 'a' + 'b' }}", "abab [1, 2] 12 ab"},
        {"{{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ not true or true }} {{ 0 or 'x' }} {{ '' and 1 }}|",
         "4 64 True x |"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, strings_are_code_points) {
    static const row rows[] = {
        {"{{ u|length }} {{ u[2] }} {{ u[-1] }} {{ u[::-1] }} {{ u[3:5] }}", "7 ü 😀 😀 eßürG ße"},
        {"{{ u.upper() }} {{ 'ΑΣ'.lower() }} {{ u.find('😀') }}", "GRÜSSE 😀 ας 6"},
        {"{{ s[1:3] }} {{ s[-3:] }} {{ s[::2] }} {{ s[9:] }}|", "el llo Hlo |"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, white_space_control) {
    static const row rows[] = {
        {"a\n  {% if t %}\nb\n  {% endif %}\nc\n", "a\nb\nc"},
        {"a {%- if t -%} b {%- endif -%} c", "abc"},
        {"  {{ n }}  \n  {{- n -}}  \nx", "  77x"},
        {"{# c #}\nx{#- d -#}  y", "xy"},
        {"{% raw %}{{ x }}{% endraw %}", "{{ x }}"},
        {"  {%+ if t %}x{% endif %}", "  x"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, loops) {
    static const row rows[] = {
        {"{% for x in l %}{{ loop.index }}{{ x }}{{ loop.last }}{{ loop.revindex }},{% endfor %}",
         "13False3,21False2,32True1,"},
        {"{% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% endfor %}", "3222"},
        {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "b=1;a=None;"},
        {"{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}{% for x in l "
         "%}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
         "323"},
        {"{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
         "<3>1 3<1>2 1<2> "},
        {"{% for x in l recursive %}{{ x }}{{ loop([9]) if loop.depth < 2 }}{% endfor %}",
         "391929"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, scopes) {
    static const row rows[] = {
        {"{% set x = 1 %}{% for i in l %}{% set x = i %}{% endfor %}{{ x }}", "1"},
        {"{% set ns = namespace(x=0) %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ "
         "ns.x }}",
         "6"},
        {"{% if t %}{% set y = 5 %}{% endif %}{{ y }}", "5"},
        {"{% set a, b = 1, 2 %}{{ b }}{{ a }}", "21"},
        {"{% set z %}t{{ n }}{% endset %}{{ z|upper }}", "T7"},
        {"{% with q = 1 %}{{ q }}{% endwith %}{{ q }}", "1"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, macros) {
    static const row rows[] = {
        {"{% macro m(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ m(1) }} {{ m(b=3, a=4) }}",
         "1-2 4-3"},
        {"{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}",
         "12"},
        {"{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}", "<in>"},
        {"{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, k=2) }}", "(1,){'k': 2}"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, filters) {
    static const row rows[] = {
        {"{{ l|sort }} {{ l|join('-') }} {{ l|first }} {{ l|max }} {{ l|sum }} {{ l|reverse|list "
         "}}",
         "[1, 2, 3] 3-1-2 3 3 6 [2, 1, 3]"},
        {"{{ d|tojson }} {{ u|tojson }} {{ [1, {'a': none}]|tojson(indent=2) }}",
         "{\"b\": 1, \"a\": null} \"Grüße 😀\" [\n  1,\n  {\n    \"a\": null\n  }\n]"},
        {"{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list }}",
         "['Hi']"},
        {"{{ '  x '|trim }}|{{ s|replace('l', 'L') }} {{ 'a b'|title }} {{ d|dictsort }}",
         "x|HeLLo A B [('a', None), ('b', 1)]"},
        {"{{ '42'|int + 1 }} {{ 'x'|int(5) }} {{ 2.5|round }} {{ f|int }} {{ '<a>'|e }}",
         "43 5 2.0 2 &lt;a&gt;"},
        {"{{ '%s=%03d' % ('a', 7) }} {{ '{:>4}|{}'.format(1, 'b') }}", "a=007    1|b"},
        {"{{ 'a\\nb'|indent(2) }} {{ l|length }} {{ 'aXb'|lower }} {{ none|default('d', true) }}",
         "a\n  b 3 axb d"},
    };
    expect_rows(rows, COUNT(rows));
}

Test(jinja, methods_and_tests) {
    static const row rows[] = {
        {"{{ 'a,b,c'.split(',', 1) }} {{ 'a</t>b'.split('</t>')[-1] }} {{ ' x '.strip() }} {{ "
         "s.startswith('He') }}",
         "['a', 'b,c'] b x True"},
        {"{{ d.get('zz', 4) }} {{ d.keys()|list }} {{ l.index(1) }}", "4 ['b', 'a'] 1"},
        {"{{ n is odd }} {{ s is string }} {{ d is mapping }} {{ l is iterable }} {{ nothing is "
         "none }} {{ t is boolean }} {{ n is divisibleby 7 }}",
         "True True True True True True True"},
    };
    expect_rows(rows, COUNT(rows));
}

typedef struct {
    const char *source;
    status code;
    const char *says; /* part of the message */
} failure;

static void expect_failures(const failure *rows, size_t count) {
    for (size_t i = 0; i < count; i++) {
        strbuf out = strbuf_make(2 * OUTPUT_BYTES_MAX);
        diag d = {.code = STATUS_OK};
        strbuf_append_z(&out, "before");
        status s = render(str_from(rows[i].source), &out, &d);
        cr_expect_eq(s, rows[i].code, "%.80s: %s %s", rows[i].source, status_name(s), d.text);
        cr_expect_eq(d.code, rows[i].code);
        cr_expect(strstr(d.text, rows[i].says), "%.80s says: %s", rows[i].source, d.text);
        cr_expect_str_eq(out.data, "before", "%.80s left text behind", rows[i].source);
        strbuf_close(&out);
    }
}

Test(jinja, names_line_and_cause_of_an_error) {
    static const failure rows[] = {
        {"{{ 1 +", STATUS_INVALID, "line 1: expected an expression"},
        {"\n{% if x %}\n", STATUS_INVALID, "but the template ends"},
        {"\n\n{% nope %}", STATUS_INVALID, "line 3: expected a statement known here, not 'nope'"},
        {"{{ 'abc }}", STATUS_INVALID, "a string does not end"},
        {"{# x", STATUS_INVALID, "missing end of comment"},
        {"{{ (1] }}", STATUS_INVALID, "a closing bracket does not fit"},
        {"{{ $ }}", STATUS_INVALID, "means nothing here"},
        {"{% break %}", STATUS_INVALID, "expected a loop around this"},
        {"{% extends 'x' %}", STATUS_INVALID, "not 'extends'"},
        {"a\nb {{ x.y }}", STATUS_INVALID, "line 2: 'x' is undefined"},
        {"{{ d.zz.y }}", STATUS_INVALID, "'dict object' has no attribute 'zz'"},
        {"{{ x + 1 }}", STATUS_INVALID, "'x' is undefined"},
        {"{{ 1 + 'a' }}", STATUS_INVALID, "unsupported operand type(s) for +: 'int' and 'str'"},
        {"{{ 1 < 'a' }}", STATUS_INVALID, "'<' not supported between"},
        {"{{ 1 / 0 }}", STATUS_INVALID, "division by zero"},
        {"{{ 9223372036854775807 + 1 }}", STATUS_INVALID, "an integer beyond 64 bits"},
        {"{{ 99999999999999999999 }}", STATUS_INVALID, "an integer beyond 64 bits"},
        {"{{ n|nope }}", STATUS_INVALID, "no filter named 'nope'"},
        {"{{ n is nope }}", STATUS_INVALID, "no test named 'nope'"},
        {"{{ n() }}", STATUS_INVALID, "'int' object is not callable"},
        {"{{ s.split(1) }}", STATUS_INVALID, "must be str or None, not int"},
        {"{{ s.upper(1) }}", STATUS_INVALID, "upper() takes at most 0 arguments"},
        {"{{ l|join(d=1, x=2) }}", STATUS_INVALID, "unexpected keyword argument 'x'"},
        {"{% set a, b = l %}", STATUS_INVALID, "too many values to unpack (expected 2)"},
        {"{% set d.x = 1 %}", STATUS_INVALID, "cannot assign attribute on non-namespace"},
        {"{% for x in n %}{% endfor %}", STATUS_INVALID, "'int' object is not iterable"},
        {"{{ x|tojson }}", STATUS_INVALID, "Object of type Undefined is not JSON serializable"},
        {"{{ {[]: 1} }}", STATUS_INVALID, "unhashable type: 'list'"},
        {"{% macro m() %}{% endmacro %}{{ m(1) }}", STATUS_INVALID, "takes not more than 0"},
        {"\xff", STATUS_INVALID, "not valid UTF-8"},
    };
    expect_failures(rows, COUNT(rows));
}

Test(jinja, raise_exception_says_the_message_alone) {
    static const failure rows[] = {{"x\n{{ raise_exception('roles must ' ~ 'alternate') }}",
                                    STATUS_INVALID, "roles must alternate"}};
    expect_failures(rows, COUNT(rows));
    strbuf out = strbuf_make(64);
    diag d;
    cr_assert_eq(render(str_from(rows[0].source), &out, &d), STATUS_INVALID);
    cr_expect_str_eq(d.text, "roles must alternate");
    strbuf_close(&out);
}

#define TIMES_8(x) x x x x x x x x
#define TIMES_512(x) TIMES_8(TIMES_8(TIMES_8(x)))
#define FOREVER "{% for a in range(99999) %}{% for b in range(99999) %}"
#define TWICE_FOREVER(what) FOREVER what "{% endfor %}{% endfor %}"

Test(jinja, stops_at_its_limits) {
    static const failure rows[] = {
        {TWICE_FOREVER(""), STATUS_LIMIT, "too much work"},
        {TWICE_FOREVER("{% set x = s.upper() %}"), STATUS_LIMIT, "line 1"},
        {TWICE_FOREVER("{{ s }}"), STATUS_LIMIT, "the text is longer than"},
        {TWICE_FOREVER("{% set x = ('x' * 99999).replace('x', 'yy') %}"), STATUS_LIMIT, "line 1"},
        {TWICE_FOREVER("{% set x = ('y' * 99999).rfind('y' * 999 ~ 'x') %}"), STATUS_LIMIT,
         "too much work"},
        {TWICE_FOREVER("{% set x = range(99999)|sort %}"), STATUS_LIMIT, "line 1"},
        {"{{ 'x' * 999999999 }}", STATUS_LIMIT, "a repeated string"},
        {"{{ [1] * 99999999 }}", STATUS_LIMIT, "a repeated list is too long"},
        {"{{ '%99999999999d' % 1 }}", STATUS_LIMIT, "too large"},
        {"{{ '{:99999999999}'.format(1) }}", STATUS_LIMIT, "too large"},
        {"{{ '%.999f' % 1 }}", STATUS_LIMIT, "a precision above 300"},
        {"{{ 'x'.center(9999999999) }}", STATUS_LIMIT, "too much work"},
        {"{{ range(100001) }}", STATUS_LIMIT, "range too big"},
        {"{{ [1]|batch(99999999, 0)|list }}", STATUS_LIMIT, "memory"},
        {"{% set q = namespace(s='x') %}{% for a in range(99) %}{% set q.s = q.s + q.s %}"
         "{% endfor %}",
         STATUS_LIMIT, "memory"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", STATUS_LIMIT, "nested deeper"},
        {"{% for x in l recursive %}{{ loop(l) }}{% endfor %}", STATUS_LIMIT, "nested deeper"},
        {"{% set x = [] %}{% do x.append(x) %}{{ x }}", STATUS_LIMIT, "nested deeper"},
        {"{% set x = [] %}{% do x.append(x) %}{{ x|tojson }}", STATUS_LIMIT, "nested deeper"},
        {"{{ ('[' * 5000)|from_json }}", STATUS_LIMIT, "nested deeper"},
        {"{{ " TIMES_512("(") "1" TIMES_512(")") " }}", STATUS_LIMIT, "open brackets"},
        {"{{ " TIMES_512("not ") "1 }}", STATUS_LIMIT, "nested deeper"},
        {"{{ " TIMES_512("-") "1 }}", STATUS_LIMIT, "nested deeper"},
        {TIMES_512("{% if t %}"), STATUS_LIMIT, "nested deeper"},
        {"{{ 1" TIMES_8(TIMES_512("+1")) " }}", STATUS_LIMIT, "nested deeper"},
        {"{{ strftime_now('%999999d') }}", STATUS_LIMIT, "too long"},
    };
    expect_failures(rows, COUNT(rows));
}

Test(jinja, refuses_a_template_too_long) {
    size_t bytes = JINJA_TEMPLATE_BYTES_MAX + 1;
    strbuf source = strbuf_make(bytes);
    diag d;
    jinja *j = NULL;
    cr_assert(strbuf_reserve(&source, bytes));
    for (size_t i = 0; i < bytes; i++) {
        strbuf_append_char(&source, 'x');
    }
    cr_expect_eq(jinja_open(strbuf_str(&source), &j, &d), STATUS_LIMIT);
    cr_expect_eq(jinja_open(str_of(source.data, bytes - 1), &j, &d), STATUS_OK);
    jinja_close(j);
    strbuf_close(&source);
}

/* Pieces that broken templates are made of. */
static const char *const pieces[] = {"{{",
                                     "}}",
                                     "{%",
                                     "%}",
                                     "-%}",
                                     "{#",
                                     "#}",
                                     "(",
                                     ")",
                                     "[",
                                     "]",
                                     "{",
                                     "}",
                                     ",",
                                     ".",
                                     ":",
                                     "|",
                                     "'",
                                     "\"",
                                     "\\",
                                     "\n",
                                     " if ",
                                     " else ",
                                     " for ",
                                     " in ",
                                     "{% endfor %}",
                                     "{% endif %}",
                                     "{% if l %}",
                                     "{% for x in l %}",
                                     "{% set x = ",
                                     "{% macro m(a) %}",
                                     "{% endmacro %}",
                                     " is ",
                                     " not ",
                                     "loop.last",
                                     "1",
                                     "2.5",
                                     "none",
                                     "s",
                                     "l",
                                     "d",
                                     "u",
                                     "messages",
                                     "range(3)",
                                     "[0]",
                                     "[::-1]",
                                     ".a",
                                     "|tojson",
                                     "|list",
                                     "|map('upper')",
                                     "|join(',')",
                                     "|sort",
                                     ".split()",
                                     ".pop()",
                                     "**",
                                     "//",
                                     "%",
                                     "~",
                                     "==",
                                     "\u00e9",
                                     "\U0001f600",
                                     "\xff",
                                     "\xc3",
                                     "{% raw %}",
                                     "{% break %}",
                                     "namespace(a=1)",
                                     "'%s'",
                                     ".format("};

static const char *const seeds[] = {
    "{% for m in messages %}{{ m.role ~ ': ' + m.content|trim }}{% if loop.last %}.{% endif %}{% "
    "endfor %}",
    "{% macro m(a, b=2) %}{{ a }}-{{ b|tojson(indent=2) }}{% endmacro %}{{ m(d) }}{{ m(b=l, "
    "a=u[::-1]) }}",
    "{% set ns = namespace(x=[]) %}{% for i in l if i > 1 %}{% set ns.x = ns.x + [i] %}{% endfor "
    "%}{{ ns.x|sort }}",
    "{%- if d.b is defined and n in [7] -%} a {%- elif not t -%} b {%- else -%} c {%- endif %}\n{# "
    "x #}",
    "{{ 'a,b'.split(',')[-1].upper() }}{{ '%05.1f|%s' % (f, s) }}{{ '{:>9}'.format(u) }}{{ "
    "l|map('string')|join('+') }}",
    "{% set x %}{% raw %}{{ }}{% endraw %}{% endset %}{% filter replace('{', '[') %}{{ x }}{% "
    "endfilter %}",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list }}{{ "
    "d|dictsort }}{{ l.index(1) }}"};

/* One edit: drops, inserts, doubles or overwrites a few bytes. */
static void mutate(strbuf *text, uint64_t *random) {
    char copy[4096];
    size_t bytes = text->bytes, at = rng_below(random, bytes + 1);
    size_t end = at + rng_below(random, 9);
    end = end < bytes ? end : bytes;
    const char *piece = pieces[rng_below(random, COUNT(pieces))];
    uint64_t kind = rng_below(random, 4);
    size_t keep_from = kind == 0 || kind == 3 ? end : at;
    memcpy(copy, text->data ? text->data : "", bytes);
    strbuf_clear(text);
    strbuf_append(text, copy, kind == 2 ? end : at);
    if (kind == 1 || kind == 3) {
        strbuf_append_z(text, piece);
    }
    strbuf_append(text, copy + keep_from, bytes - keep_from);
}

/* Whatever a template is, it renders, is refused, or reaches a limit; the same each time; and a
 * failure says why and leaves no text. The sanitizers watch the rest. */
Test(jinja, survives_broken_templates) {
    uint64_t random = 20240607;
    strbuf text = strbuf_make(2048), out = strbuf_make(OUTPUT_BYTES_MAX);
    strbuf again = strbuf_make(OUTPUT_BYTES_MAX);
    int rendered = 0;
    for (int round = 0; round < 2000; round++) {
        strbuf_clear(&text);
        strbuf_append_z(&text, seeds[rng_below(&random, COUNT(seeds))]);
        for (uint64_t edits = 1 + rng_below(&random, 4); edits > 0; edits--) {
            mutate(&text, &random);
        }
        diag d = {.code = STATUS_OK}, d2 = {.code = STATUS_OK};
        strbuf_clear(&out);
        strbuf_clear(&again);
        status s = render(strbuf_str(&text), &out, &d);
        cr_assert(s == STATUS_OK || s == STATUS_INVALID || s == STATUS_LIMIT, "%s: %s", text.data,
                  status_name(s));
        cr_assert_eq(render(strbuf_str(&text), &again, &d2), s, "%s", text.data);
        cr_assert(str_equal(strbuf_str(&out), strbuf_str(&again)), "%s", text.data);
        if (s == STATUS_OK) {
            rendered++;
        } else {
            cr_assert(d.text[0] != '\0' && out.bytes == 0, "%s", text.data);
        }
    }
    cr_expect(rendered > 100, "only %d of the mutants render", rendered);
    strbuf_close(&text);
    strbuf_close(&out);
    strbuf_close(&again);
}

/* A sentence of random pieces is rarely a template; the parser alone must cope. */
Test(jinja, survives_random_pieces) {
    uint64_t random = 7;
    strbuf text = strbuf_make(4096);
    for (int round = 0; round < 6000; round++) {
        strbuf_clear(&text);
        for (uint64_t count = 1 + rng_below(&random, 24); count > 0; count--) {
            strbuf_append_z(&text, pieces[rng_below(&random, COUNT(pieces))]);
        }
        jinja *j = NULL;
        diag d = {.code = STATUS_OK};
        status s = jinja_open(strbuf_str(&text), &j, &d);
        cr_assert(s == STATUS_OK || s == STATUS_INVALID, "%s: %s", text.data, d.text);
        jinja_close(s == STATUS_OK ? j : NULL);
    }
    strbuf_close(&text);
}
