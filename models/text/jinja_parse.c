/* jinja_parse.c -- statements. */
#include "models/text/jinja_parse.h"

#include "models/text/jinja_dict.h"
#include "models/text/jinja_string.h"

static jinja_node *parse_body(jinja_parser *p, const char *const *ends);

void jinja_parse_fail(jinja_parser *p, const char *what) {
    const jinja_token *t = p->token;
    int shown = t->text.bytes > 60 ? 60 : (int)t->text.bytes;
    p->h->line = t->line;
    if (t->type == JINJA_TOKEN_END) {
        jinja_heap_fail(p->h, STATUS_INVALID, "%s, but the template ends", what);
    }
    jinja_heap_fail(p->h, STATUS_INVALID, "%s, not '%.*s'", what, shown, t->text.data);
}

jinja_node *jinja_parse_node(jinja_parser *p, jinja_kind kind) {
    jinja_node *node = JINJA_TAKE(p->h, 1, jinja_node);
    *node = (jinja_node){.kind = (uint8_t)kind, .line = p->token->line};
    return node;
}

void jinja_parse_push(jinja_parser *p, jinja_nodes *nodes, jinja_node *node) {
    if (nodes->count == nodes->capacity) {
        int32_t capacity = nodes->capacity ? nodes->capacity * 2 : 4;
        nodes->items = jinja_heap_grow(p->h, nodes->items, (size_t)nodes->count, (size_t)capacity,
                                       sizeof(jinja_node *));
        nodes->capacity = capacity;
    }
    nodes->items[nodes->count++] = node;
}

int32_t jinja_parse_symbol(jinja_parser *p, jinja_value name) {
    const jinja_value *known = jinja_dict_find(p->h, p->symbols, name);
    if (known) {
        return (int32_t)known->as.integer;
    }
    int32_t symbol = (int32_t)p->symbols->count;
    jinja_dict_set(p->h, p->symbols, name, jinja_value_int(symbol));
    return symbol;
}

jinja_value jinja_parse_text(jinja_parser *p, str text) {
    return jinja_string_borrow(p->h, text.data, text.bytes);
}

bool jinja_parse_at_name(const jinja_parser *p, const char *name) {
    return p->token->type == JINJA_TOKEN_NAME && str_equal_z(p->token->text, name);
}

bool jinja_parse_at(const jinja_parser *p, const char *operator_text) {
    return p->token->type == JINJA_TOKEN_OPERATOR && str_equal_z(p->token->text, operator_text);
}

void jinja_parse_next(jinja_parser *p) {
    p->h->line = p->token->line;
    if (p->token->type != JINJA_TOKEN_END) {
        p->token++;
    }
}

bool jinja_parse_take_name(jinja_parser *p, const char *name) {
    bool here = jinja_parse_at_name(p, name);
    if (here) {
        jinja_parse_next(p);
    }
    return here;
}

bool jinja_parse_take(jinja_parser *p, const char *operator_text) {
    bool here = jinja_parse_at(p, operator_text);
    if (here) {
        jinja_parse_next(p);
    }
    return here;
}

void jinja_parse_expect(jinja_parser *p, const char *operator_text) {
    if (!jinja_parse_take(p, operator_text)) {
        char what[32] = "expected ''";
        memcpy(what + 10, operator_text, strlen(operator_text));
        what[10 + strlen(operator_text)] = '\'';
        jinja_parse_fail(p, what);
    }
}

static void expect_block_end(jinja_parser *p) {
    if (p->token->type != JINJA_TOKEN_BLOCK_END) {
        jinja_parse_fail(p, "expected the end of the tag");
    }
    jinja_parse_next(p);
}

/* A statement's body up to one of `ends`, which becomes the current token. */
static jinja_node *parse_inner(jinja_parser *p, const char *const *ends) {
    jinja_parse_take(p, ":"); /* `{% if x: %}` is allowed */
    expect_block_end(p);
    return parse_body(p, ends);
}

/* As parse_inner with one end, which is taken. */
static jinja_node *parse_until(jinja_parser *p, const char *end) {
    const char *ends[] = {end, NULL};
    jinja_node *body = parse_inner(p, ends);
    jinja_parse_next(p);
    return body;
}

static jinja_node *parse_if(jinja_parser *p) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    jinja_node *first = NULL, *last = NULL;
    for (;;) {
        jinja_node *node = jinja_parse_node(p, JINJA_IF);
        jinja_parse_next(p);
        node->left = jinja_expr_tuple(p, false);
        node->right = parse_inner(p, ends);
        first = first ? first : node;
        if (last) {
            last->third = node;
        }
        last = node;
        if (!jinja_parse_at_name(p, "elif")) {
            break;
        }
    }
    if (jinja_parse_take_name(p, "else")) {
        last->third = parse_until(p, "endif");
    } else {
        jinja_parse_next(p);
    }
    return first;
}

static jinja_node *parse_for(jinja_parser *p) {
    static const char *const ends[] = {"endfor", "else", NULL};
    jinja_node *node = jinja_parse_node(p, JINJA_FOR);
    jinja_parse_next(p);
    node->left = jinja_expr_target(p, false);
    if (!jinja_parse_take_name(p, "in")) {
        jinja_parse_fail(p, "expected 'in'");
    }
    node->right = jinja_expr_tuple(p, false);
    node->items = JINJA_TAKE(p->h, 2, jinja_node *);
    node->count = 2;
    node->items[0] = jinja_parse_take_name(p, "if") ? jinja_expr_parse(p, true) : NULL;
    node->items[1] = NULL;
    node->flag = jinja_parse_take_name(p, "recursive");
    p->loops++;
    node->third = parse_inner(p, ends);
    p->loops--;
    if (jinja_parse_take_name(p, "else")) {
        node->items[1] = parse_until(p, "endfor");
    } else {
        jinja_parse_next(p);
    }
    return node;
}

static jinja_node *parse_set(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_SET);
    jinja_parse_next(p);
    node->left = jinja_expr_target(p, true);
    if (jinja_parse_take(p, "=")) {
        node->right = jinja_expr_tuple(p, true);
        return node;
    }
    node->kind = JINJA_SET_BLOCK;
    node->right = jinja_expr_filters(p, NULL, false);
    node->third = parse_until(p, "endset");
    return node;
}

static void parse_signature(jinja_parser *p, jinja_macro_def *def) {
    jinja_nodes names = {.items = NULL}, defaults = {.items = NULL};
    bool optional = false;
    jinja_parse_expect(p, "(");
    while (!jinja_parse_at(p, ")")) {
        if (names.count) {
            jinja_parse_expect(p, ",");
        }
        if (p->token->type != JINJA_TOKEN_NAME) {
            jinja_parse_fail(p, "expected a parameter's name");
        }
        jinja_node *name = jinja_parse_node(p, JINJA_NAME);
        name->value = jinja_parse_text(p, p->token->text);
        name->symbol = jinja_parse_symbol(p, name->value);
        jinja_parse_next(p);
        jinja_node *value = jinja_parse_take(p, "=") ? jinja_expr_parse(p, true) : NULL;
        if (optional && !value) {
            jinja_parse_fail(p, "a parameter without default follows one with");
        }
        optional = value != NULL;
        jinja_parse_push(p, &names, name);
        jinja_parse_push(p, &defaults, value);
    }
    jinja_parse_expect(p, ")");
    def->count = names.count;
    def->defaults = defaults.items;
    def->symbols = JINJA_TAKE(p->h, (size_t)names.count, int32_t);
    def->names = JINJA_TAKE(p->h, (size_t)names.count, jinja_value);
    for (int32_t i = 0; i < names.count; i++) {
        def->symbols[i] = names.items[i]->symbol;
        def->names[i] = names.items[i]->value;
    }
}

static bool has_parameter(const jinja_macro_def *def, int32_t symbol) {
    for (int32_t i = 0; i < def->count; i++) {
        if (def->symbols[i] == symbol) {
            return true;
        }
    }
    return false;
}

/* The body of a macro: names with a meaning in it are noted while it is parsed. */
static void parse_macro_body(jinja_parser *p, jinja_macro_def *def, const char *end) {
    jinja_macro_frame frame = {.def = def, .outer = p->macros};
    int32_t loops = p->loops;
    p->macros = &frame;
    p->loops = 0;
    def->body = parse_until(p, end);
    p->macros = frame.outer;
    p->loops = loops;
    def->uses_caller = def->uses_caller && !has_parameter(def, p->caller);
    def->uses_varargs = def->uses_varargs && !has_parameter(def, p->varargs);
    def->uses_kwargs = def->uses_kwargs && !has_parameter(def, p->kwargs);
}

static jinja_macro_def *new_macro(jinja_parser *p, jinja_value name) {
    jinja_macro_def *def = JINJA_TAKE(p->h, 1, jinja_macro_def);
    *def = (jinja_macro_def){.name = name};
    return def;
}

static jinja_node *parse_macro(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_MACRO_DEF);
    jinja_parse_next(p);
    if (p->token->type != JINJA_TOKEN_NAME) {
        jinja_parse_fail(p, "expected the macro's name");
    }
    node->macro = new_macro(p, jinja_parse_text(p, p->token->text));
    node->macro->symbol = jinja_parse_symbol(p, node->macro->name);
    jinja_parse_next(p);
    parse_signature(p, node->macro);
    parse_macro_body(p, node->macro, "endmacro");
    return node;
}

static jinja_node *parse_call(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_CALL_BLOCK);
    jinja_parse_next(p);
    node->macro = new_macro(p, jinja_string_from(p->h, "caller"));
    if (jinja_parse_at(p, "(")) {
        parse_signature(p, node->macro);
    }
    node->left = jinja_expr_parse(p, true);
    if (node->left->kind != JINJA_CALL) {
        jinja_parse_fail(p, "expected a call");
    }
    parse_macro_body(p, node->macro, "endcall");
    return node;
}

static jinja_node *parse_filter(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_FILTER_BLOCK);
    jinja_parse_next(p);
    node->left = jinja_expr_filters(p, NULL, true);
    node->third = parse_until(p, "endfilter");
    return node;
}

static jinja_node *parse_with(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_WITH);
    jinja_nodes pairs = {.items = NULL};
    jinja_parse_next(p);
    while (p->token->type != JINJA_TOKEN_BLOCK_END) {
        if (pairs.count) {
            jinja_parse_expect(p, ",");
        }
        jinja_parse_push(p, &pairs, jinja_expr_target(p, false));
        jinja_parse_expect(p, "=");
        jinja_parse_push(p, &pairs, jinja_expr_parse(p, true));
    }
    node->items = pairs.items;
    node->count = pairs.count;
    node->third = parse_until(p, "endwith");
    return node;
}

static jinja_node *parse_print(jinja_parser *p) {
    jinja_node *body = jinja_parse_node(p, JINJA_BODY);
    jinja_nodes items = {.items = NULL};
    jinja_parse_next(p);
    while (p->token->type != JINJA_TOKEN_BLOCK_END) {
        if (items.count) {
            jinja_parse_expect(p, ",");
        }
        jinja_node *output = jinja_parse_node(p, JINJA_OUTPUT);
        output->left = jinja_expr_parse(p, true);
        jinja_parse_push(p, &items, output);
    }
    body->items = items.items;
    body->count = items.count;
    return body;
}

/* Its text is what the model said, for training; here it prints its body. The body is a function's
 * in the original: names set in it stay in it, and a loop can't be left from it. */
static jinja_node *parse_generation(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_SCOPE);
    int32_t loops = p->loops;
    jinja_parse_next(p);
    p->loops = 0;
    node->third = parse_until(p, "endgeneration");
    p->loops = loops;
    return node;
}

static jinja_node *parse_loop_control(jinja_parser *p, jinja_kind kind) {
    jinja_node *node = jinja_parse_node(p, kind);
    if (p->loops == 0) {
        jinja_parse_fail(p, "expected a loop around this");
    }
    jinja_parse_next(p);
    return node;
}

static jinja_node *parse_do(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_DO);
    jinja_parse_next(p);
    node->left = jinja_expr_tuple(p, true);
    return node;
}

static jinja_node *parse_break(jinja_parser *p) {
    return parse_loop_control(p, JINJA_BREAK);
}

static jinja_node *parse_continue(jinja_parser *p) {
    return parse_loop_control(p, JINJA_CONTINUE);
}

static jinja_node *parse_statement(jinja_parser *p) {
    static const struct {
        const char *tag;
        jinja_node *(*parse)(jinja_parser *);
    } statements[] = {
        {"if", parse_if},       {"for", parse_for},     {"set", parse_set},
        {"macro", parse_macro}, {"call", parse_call},   {"filter", parse_filter},
        {"with", parse_with},   {"print", parse_print}, {"generation", parse_generation},
        {"do", parse_do},       {"break", parse_break}, {"continue", parse_continue},
    };
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
        if (jinja_parse_at_name(p, statements[i].tag)) {
            jinja_heap_enter(p->h);
            jinja_node *node = statements[i].parse(p);
            jinja_heap_leave(p->h);
            expect_block_end(p);
            return node;
        }
    }
    jinja_parse_fail(p, "expected a statement known here");
}

static bool at_any(const jinja_parser *p, const char *const *ends) {
    for (; ends && *ends; ends++) {
        if (jinja_parse_at_name(p, *ends)) {
            return true;
        }
    }
    return false;
}

/* Up to the name among `ends` that opens a tag, or with no `ends` to the end of the template. */
static jinja_node *parse_body(jinja_parser *p, const char *const *ends) {
    jinja_node *body = jinja_parse_node(p, JINJA_BODY);
    jinja_nodes items = {.items = NULL};
    for (;;) {
        jinja_node *node;
        if (p->token->type == JINJA_TOKEN_DATA) {
            node = jinja_parse_node(p, JINJA_TEXT);
            node->value = jinja_parse_text(p, p->token->text);
            jinja_parse_next(p);
        } else if (p->token->type == JINJA_TOKEN_VARIABLE_BEGIN) {
            jinja_parse_next(p);
            node = jinja_parse_node(p, JINJA_OUTPUT);
            node->left = jinja_expr_tuple(p, true);
            if (p->token->type != JINJA_TOKEN_VARIABLE_END) {
                jinja_parse_fail(p, "expected '}}'");
            }
            jinja_parse_next(p);
        } else if (p->token->type == JINJA_TOKEN_BLOCK_BEGIN) {
            jinja_parse_next(p);
            if (at_any(p, ends)) {
                break;
            }
            node = parse_statement(p);
        } else if (p->token->type == JINJA_TOKEN_END && !ends) {
            break;
        } else {
            jinja_parse_fail(p, "expected the end of a statement");
        }
        jinja_parse_push(p, &items, node);
    }
    body->items = items.items;
    body->count = items.count;
    return body;
}

jinja_ast *jinja_parse(jinja_heap *h, str source) {
    size_t count;
    jinja_token *tokens = jinja_lex(h, source, &count);
    jinja_parser p = {.h = h, .tokens = tokens, .token = tokens, .symbols = jinja_dict_make(h)};
    p.caller = jinja_parse_symbol(&p, jinja_string_from(h, "caller"));
    p.varargs = jinja_parse_symbol(&p, jinja_string_from(h, "varargs"));
    p.kwargs = jinja_parse_symbol(&p, jinja_string_from(h, "kwargs"));
    p.loop = jinja_parse_symbol(&p, jinja_string_from(h, "loop"));
    jinja_ast *ast = JINJA_TAKE(h, 1, jinja_ast);
    ast->body = parse_body(&p, NULL);
    ast->symbols = p.symbols;
    ast->caller = p.caller;
    ast->varargs = p.varargs;
    ast->kwargs = p.kwargs;
    ast->loop = p.loop;
    return ast;
}
