/* jinja_expr.c -- expressions, by precedence. */
#include <string.h>

#include "models/text/jinja_builtin.h"
#include "models/text/jinja_number.h"
#include "models/text/jinja_parse.h"
#include "models/text/jinja_string.h"

static jinja_node *parse_unary(jinja_parser *p, bool with_filters);
static jinja_node *parse_postfix(jinja_parser *p, jinja_node *node);
static jinja_node *parse_primary(jinja_parser *p, bool attributes);

static jinja_node *wrap(jinja_parser *p, jinja_kind kind, jinja_node *left, jinja_node *right,
                        int32_t line) {
    jinja_node *node = jinja_parse_node(p, kind);
    node->left = left;
    node->right = right;
    node->line = line;
    return node;
}

/* The operator here among `ops` (a NULL text ends it), taken; -1 if none. */
typedef struct {
    const char *text;
    jinja_op op;
} operator_row;

static int take_operator(jinja_parser *p, const operator_row *ops) {
    for (; ops->text; ops++) {
        if (jinja_parse_take(p, ops->text)) {
            return (int)ops->op;
        }
    }
    return -1;
}

static jinja_node *parse_power(jinja_parser *p) {
    int32_t line = p->token->line;
    jinja_node *left = parse_unary(p, true);
    while (jinja_parse_take(p, "**")) {
        left = wrap(p, JINJA_BINARY, left, parse_unary(p, true), line);
        left->op = JINJA_OP_POW;
    }
    return left;
}

static jinja_node *parse_product(jinja_parser *p) {
    static const operator_row ops[] = {{"*", JINJA_OP_MUL},
                                       {"/", JINJA_OP_DIV},
                                       {"//", JINJA_OP_FLOORDIV},
                                       {"%", JINJA_OP_MOD},
                                       {NULL, JINJA_OP_MUL}};
    int32_t line = p->token->line;
    jinja_node *left = parse_power(p);
    for (int op = take_operator(p, ops); op >= 0; op = take_operator(p, ops)) {
        left = wrap(p, JINJA_BINARY, left, parse_power(p), line);
        left->op = (uint8_t)op;
    }
    return left;
}

static jinja_node *parse_concat(jinja_parser *p) {
    jinja_node *first = parse_product(p);
    if (!jinja_parse_at(p, "~")) {
        return first;
    }
    jinja_node *node = wrap(p, JINJA_CONCAT, NULL, NULL, first->line);
    jinja_nodes items = {.items = NULL};
    jinja_parse_push(p, &items, first);
    while (jinja_parse_take(p, "~")) {
        jinja_parse_push(p, &items, parse_product(p));
    }
    node->items = items.items;
    node->count = items.count;
    return node;
}

static jinja_node *parse_sum(jinja_parser *p) {
    static const operator_row ops[] = {
        {"+", JINJA_OP_ADD}, {"-", JINJA_OP_SUB}, {NULL, JINJA_OP_ADD}};
    int32_t line = p->token->line;
    jinja_node *left = parse_concat(p);
    for (int op = take_operator(p, ops); op >= 0; op = take_operator(p, ops)) {
        left = wrap(p, JINJA_BINARY, left, parse_concat(p), line);
        left->op = (uint8_t)op;
    }
    return left;
}

static bool at_not_in(const jinja_parser *p) {
    return jinja_parse_at_name(p, "not") && p->token[1].type == JINJA_TOKEN_NAME &&
           str_equal_z(p->token[1].text, "in");
}

static int take_comparison(jinja_parser *p) {
    static const operator_row ops[] = {
        {"==", JINJA_OP_EQ}, {"!=", JINJA_OP_NE}, {"<", JINJA_OP_LT}, {"<=", JINJA_OP_LE},
        {">", JINJA_OP_GT},  {">=", JINJA_OP_GE}, {NULL, JINJA_OP_EQ}};
    if (jinja_parse_take_name(p, "in")) {
        return JINJA_OP_IN;
    }
    if (at_not_in(p)) {
        jinja_parse_next(p);
        jinja_parse_next(p);
        return JINJA_OP_NOT_IN;
    }
    return take_operator(p, ops);
}

static jinja_node *parse_comparison(jinja_parser *p) {
    int32_t line = p->token->line;
    jinja_node *first = parse_sum(p);
    int op = take_comparison(p);
    if (op < 0) {
        return first;
    }
    jinja_node *node = wrap(p, JINJA_COMPARE, first, NULL, line);
    jinja_nodes operands = {.items = NULL};
    for (; op >= 0; op = take_comparison(p)) {
        jinja_node *operand = wrap(p, JINJA_OPERAND, parse_sum(p), NULL, line);
        operand->op = (uint8_t)op;
        jinja_parse_push(p, &operands, operand);
    }
    node->items = operands.items;
    node->count = operands.count;
    return node;
}

static jinja_node *parse_not(jinja_parser *p) {
    int32_t line = p->token->line;
    if (!jinja_parse_take_name(p, "not")) {
        return parse_comparison(p);
    }
    jinja_heap_enter(p->h);
    jinja_node *node = wrap(p, JINJA_UNARY, parse_not(p), NULL, line);
    jinja_heap_leave(p->h);
    node->op = JINJA_OP_NOT;
    return node;
}

static jinja_node *parse_and(jinja_parser *p) {
    int32_t line = p->token->line;
    jinja_node *left = parse_not(p);
    while (jinja_parse_take_name(p, "and")) {
        left = wrap(p, JINJA_AND, left, parse_not(p), line);
    }
    return left;
}

static jinja_node *parse_or(jinja_parser *p) {
    int32_t line = p->token->line;
    jinja_node *left = parse_and(p);
    while (jinja_parse_take_name(p, "or")) {
        left = wrap(p, JINJA_OR, left, parse_and(p), line);
    }
    return left;
}

jinja_node *jinja_expr_parse(jinja_parser *p, bool conditions) {
    jinja_heap_enter(p->h);
    int32_t line = p->token->line;
    jinja_node *node = parse_or(p);
    while (conditions && jinja_parse_take_name(p, "if")) {
        jinja_node *test = parse_or(p);
        node = wrap(p, JINJA_CONDITION, node, test, line);
        if (jinja_parse_take_name(p, "else")) {
            node->third = jinja_expr_parse(p, true);
        }
    }
    jinja_heap_leave(p->h);
    return node;
}

static bool at_tuple_end(const jinja_parser *p) {
    return p->token->type == JINJA_TOKEN_VARIABLE_END || p->token->type == JINJA_TOKEN_BLOCK_END ||
           jinja_parse_at(p, ")");
}

typedef enum { TUPLE_PLAIN, TUPLE_CONDITIONS, TUPLE_TARGET, TUPLE_NAMESPACE } tuple_of;

static jinja_node *parse_tuple(jinja_parser *p, tuple_of of, bool empty) {
    jinja_nodes items = {.items = NULL};
    bool comma = false;
    int32_t line = p->token->line;
    for (;;) {
        if (at_tuple_end(p)) {
            break;
        }
        jinja_parse_push(p, &items,
                         of >= TUPLE_TARGET ? parse_primary(p, of == TUPLE_NAMESPACE)
                                            : jinja_expr_parse(p, of == TUPLE_CONDITIONS));
        if (!jinja_parse_take(p, ",")) {
            break;
        }
        comma = true;
    }
    if (!comma && items.count == 1) {
        return items.items[0];
    }
    if (!comma && !empty) {
        jinja_parse_fail(p, "expected an expression");
    }
    jinja_node *node = wrap(p, JINJA_LISTING, NULL, NULL, line);
    node->op = JINJA_TUPLE;
    node->items = items.items;
    node->count = items.count;
    return node;
}

jinja_node *jinja_expr_tuple(jinja_parser *p, bool conditions) {
    return parse_tuple(p, conditions ? TUPLE_CONDITIONS : TUPLE_PLAIN, false);
}

static void need_target(jinja_parser *p, const jinja_node *node) {
    bool tuple = node->kind == JINJA_LISTING && node->op == JINJA_TUPLE;
    if (node->kind != JINJA_NAME && node->kind != JINJA_NSREF && !tuple) {
        jinja_parse_fail(p, "expected what can be assigned to");
    }
    for (int32_t i = 0; tuple && i < node->count; i++) {
        need_target(p, node->items[i]);
    }
}

jinja_node *jinja_expr_target(jinja_parser *p, bool attributes) {
    jinja_node *target = parse_tuple(p, attributes ? TUPLE_NAMESPACE : TUPLE_TARGET, false);
    need_target(p, target);
    return target;
}

static jinja_node *parse_list(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_LISTING);
    jinja_nodes items = {.items = NULL};
    jinja_parse_next(p);
    while (!jinja_parse_at(p, "]")) {
        if (items.count) {
            jinja_parse_expect(p, ",");
            if (jinja_parse_at(p, "]")) {
                break;
            }
        }
        jinja_parse_push(p, &items, jinja_expr_parse(p, true));
    }
    jinja_parse_expect(p, "]");
    node->op = JINJA_LIST;
    node->items = items.items;
    node->count = items.count;
    return node;
}

static jinja_node *parse_dict(jinja_parser *p) {
    jinja_node *node = jinja_parse_node(p, JINJA_DICTING);
    jinja_nodes items = {.items = NULL};
    jinja_parse_next(p);
    while (!jinja_parse_at(p, "}")) {
        if (items.count) {
            jinja_parse_expect(p, ",");
            if (jinja_parse_at(p, "}")) {
                break;
            }
        }
        jinja_parse_push(p, &items, jinja_expr_parse(p, true));
        jinja_parse_expect(p, ":");
        jinja_parse_push(p, &items, jinja_expr_parse(p, true));
    }
    jinja_parse_expect(p, "}");
    node->items = items.items;
    node->count = items.count;
    return node;
}

/* Names that a macro gets for naming them. */
static void note_special(jinja_parser *p, int32_t symbol) {
    for (jinja_macro_frame *frame = p->macros; frame; frame = frame->outer) {
        frame->def->uses_caller |= symbol == p->caller;
        frame->def->uses_varargs |= symbol == p->varargs;
        frame->def->uses_kwargs |= symbol == p->kwargs;
    }
}

static jinja_node *constant(jinja_parser *p, jinja_value value) {
    jinja_node *node = jinja_parse_node(p, JINJA_CONST);
    node->value = value;
    return node;
}

static jinja_node *parse_name(jinja_parser *p, bool attributes) {
    static const struct {
        const char *name;
        jinja_value value;
    } constants[] = {{"true", {.type = JINJA_BOOL, .as.boolean = true}},
                     {"True", {.type = JINJA_BOOL, .as.boolean = true}},
                     {"false", {.type = JINJA_BOOL}},
                     {"False", {.type = JINJA_BOOL}},
                     {"none", {.type = JINJA_NONE}},
                     {"None", {.type = JINJA_NONE}}};
    for (size_t i = 0; i < sizeof constants / sizeof constants[0]; i++) {
        if (jinja_parse_take_name(p, constants[i].name)) {
            return constant(p, constants[i].value);
        }
    }
    jinja_node *node = jinja_parse_node(p, JINJA_NAME);
    node->value = jinja_parse_text(p, p->token->text);
    node->symbol = jinja_parse_symbol(p, node->value);
    jinja_parse_next(p);
    if (attributes && jinja_parse_take(p, ".")) {
        if (p->token->type != JINJA_TOKEN_NAME) {
            jinja_parse_fail(p, "expected a name");
        }
        node->kind = JINJA_NSREF;
        node->value = jinja_parse_text(p, p->token->text);
        jinja_parse_next(p);
    } else {
        note_special(p, node->symbol);
    }
    return node;
}

static jinja_node *parse_string(jinja_parser *p) {
    jinja_node *node = constant(p, p->token->value);
    jinja_parse_next(p);
    while (p->token->type == JINJA_TOKEN_STRING) {
        node->value =
            jinja_string_concat(p->h, node->value.as.string, p->token->value.as.string, false);
        jinja_parse_next(p);
    }
    if (node->value.as.string->room) { /* a constant never grows: renders share it */
        node->value =
            jinja_string_copy(p->h, node->value.as.string->data, node->value.as.string->bytes);
    }
    return node;
}

/* `attributes`: space.name is one, as a target. */
static jinja_node *parse_primary(jinja_parser *p, bool attributes) {
    jinja_node *node;
    jinja_heap_enter(p->h);
    if (p->token->type == JINJA_TOKEN_NAME) {
        node = parse_name(p, attributes);
    } else if (p->token->type == JINJA_TOKEN_STRING) {
        node = parse_string(p);
    } else if (p->token->type == JINJA_TOKEN_INTEGER || p->token->type == JINJA_TOKEN_FLOAT) {
        node = constant(p, p->token->value);
        jinja_parse_next(p);
    } else if (jinja_parse_take(p, "(")) {
        node = parse_tuple(p, TUPLE_CONDITIONS, true);
        jinja_parse_expect(p, ")");
    } else if (jinja_parse_at(p, "[")) {
        node = parse_list(p);
    } else if (jinja_parse_at(p, "{")) {
        node = parse_dict(p);
    } else {
        jinja_parse_fail(p, "expected an expression");
    }
    jinja_heap_leave(p->h);
    return node;
}

static jinja_arguments *parse_arguments(jinja_parser *p) {
    jinja_arguments *args = JINJA_TAKE(p->h, 1, jinja_arguments);
    *args = (jinja_arguments){.items = NULL};
    jinja_nodes items = {.items = NULL}, named = {.items = NULL};
    jinja_list *names = jinja_value_list_make(p->h, 0);
    bool first = true;
    jinja_parse_expect(p, "(");
    while (!jinja_parse_at(p, ")")) {
        if (!first) {
            jinja_parse_expect(p, ",");
            if (jinja_parse_at(p, ")")) {
                break;
            }
        }
        first = false;
        bool is_named = p->token->type == JINJA_TOKEN_NAME &&
                        p->token[1].type == JINJA_TOKEN_OPERATOR &&
                        str_equal_z(p->token[1].text, "=");
        if (args->star_star || (args->star && !is_named && !jinja_parse_at(p, "**")) ||
            (named.count && !is_named && !jinja_parse_at(p, "*") && !jinja_parse_at(p, "**"))) {
            jinja_parse_fail(p, "arguments out of order: expected ')'");
        }
        if (jinja_parse_take(p, "*")) {
            args->star = jinja_expr_parse(p, true);
        } else if (jinja_parse_take(p, "**")) {
            args->star_star = jinja_expr_parse(p, true);
        } else if (is_named) {
            jinja_value_list_push(p->h, names, jinja_parse_text(p, p->token->text));
            jinja_parse_next(p);
            jinja_parse_next(p);
            jinja_parse_push(p, &named, jinja_expr_parse(p, true));
        } else {
            jinja_parse_push(p, &items, jinja_expr_parse(p, true));
        }
    }
    jinja_parse_expect(p, ")");
    args->items = items.items;
    args->count = items.count;
    args->named = named.items;
    args->named_count = named.count;
    args->names = names->items;
    return args;
}

static jinja_node *parse_call(jinja_parser *p, jinja_node *node) {
    jinja_node *call = wrap(p, JINJA_CALL, node, NULL, p->token->line);
    call->args = parse_arguments(p);
    return call;
}

static bool at_part_end(const jinja_parser *p) {
    return jinja_parse_at(p, "]") || jinja_parse_at(p, ",") || jinja_parse_at(p, ":");
}

/* One subscript: an expression or a slice, whose `left` is still to be set. */
static jinja_node *parse_subscribed(jinja_parser *p) {
    jinja_node *first = jinja_parse_at(p, ":") ? NULL : jinja_expr_parse(p, true);
    if (!jinja_parse_at(p, ":")) {
        return first;
    }
    jinja_node *slice = jinja_parse_node(p, JINJA_SLICE);
    slice->items = JINJA_TAKE(p->h, 3, jinja_node *);
    slice->count = 3;
    jinja_parse_next(p);
    slice->items[0] = first;
    slice->items[1] = at_part_end(p) ? NULL : jinja_expr_parse(p, true);
    slice->items[2] = NULL;
    if (jinja_parse_take(p, ":") && !at_part_end(p)) {
        slice->items[2] = jinja_expr_parse(p, true);
    }
    return slice;
}

static jinja_node *parse_brackets(jinja_parser *p, jinja_node *node) {
    int32_t line = p->token->line;
    jinja_nodes items = {.items = NULL};
    jinja_parse_next(p);
    while (!jinja_parse_at(p, "]")) {
        if (items.count) {
            jinja_parse_expect(p, ",");
        }
        jinja_node *item = parse_subscribed(p);
        if (item->kind == JINJA_SLICE && !item->left && (items.count || jinja_parse_at(p, ","))) {
            jinja_parse_fail(p, "expected one slice alone");
        }
        jinja_parse_push(p, &items, item);
    }
    jinja_parse_expect(p, "]");
    if (items.count == 1 && items.items[0]->kind == JINJA_SLICE && !items.items[0]->left) {
        items.items[0]->left = node;
        return items.items[0];
    }
    jinja_node *key = items.count == 1 ? items.items[0] : NULL;
    if (!key) {
        key = wrap(p, JINJA_LISTING, NULL, NULL, line);
        key->op = JINJA_TUPLE;
        key->items = items.items;
        key->count = items.count;
    }
    return wrap(p, JINJA_ITEM, node, key, line);
}

/* Looked up once here, so that evaluation need not. */
static const jinja_methods *methods_named(jinja_parser *p, str name) {
    jinja_methods found = {.of = {NULL}};
    bool any = false;
    for (int type = 0; type <= JINJA_JOINER; type++) {
        found.of[type] = jinja_builtin_method((jinja_type)type, name);
        any = any || found.of[type];
    }
    if (!any) {
        return NULL;
    }
    jinja_methods *methods = JINJA_TAKE(p->h, 1, jinja_methods);
    *methods = found;
    return methods;
}

static jinja_node *parse_dot(jinja_parser *p, jinja_node *node) {
    int32_t line = p->token->line;
    jinja_parse_next(p);
    if (p->token->type == JINJA_TOKEN_NAME) {
        node = wrap(p, JINJA_ATTR, node, NULL, line);
        node->value = jinja_parse_text(p, p->token->text);
        node->methods = methods_named(p, p->token->text);
    } else if (p->token->type == JINJA_TOKEN_INTEGER) {
        node = wrap(p, JINJA_ITEM, node, constant(p, p->token->value), line);
    } else {
        jinja_parse_fail(p, "expected a name or number after '.'");
    }
    jinja_parse_next(p);
    return node;
}

static jinja_node *parse_postfix(jinja_parser *p, jinja_node *node) {
    for (;;) {
        if (jinja_parse_at(p, ".")) {
            node = parse_dot(p, node);
        } else if (jinja_parse_at(p, "[")) {
            node = parse_brackets(p, node);
        } else if (jinja_parse_at(p, "(")) {
            node = parse_call(p, node);
        } else {
            return node;
        }
    }
}

/* The dotted name of a filter or test. */
static jinja_value parse_dotted(jinja_parser *p) {
    const jinja_token *first = p->token;
    if (first->type != JINJA_TOKEN_NAME) {
        jinja_parse_fail(p, "expected a name");
    }
    jinja_parse_next(p);
    jinja_builder b = jinja_string_builder(p->h);
    jinja_string_put(&b, first->text.data, first->text.bytes);
    while (jinja_parse_take(p, ".")) {
        if (p->token->type != JINJA_TOKEN_NAME) {
            jinja_parse_fail(p, "expected a name");
        }
        jinja_string_put(&b, ".", 1);
        jinja_string_put(&b, p->token->text.data, p->token->text.bytes);
        jinja_parse_next(p);
    }
    return jinja_string_built(&b);
}

jinja_node *jinja_expr_filters(jinja_parser *p, jinja_node *node, bool inside) {
    while (inside || jinja_parse_take(p, "|")) {
        inside = false;
        node = wrap(p, JINJA_FILTER, node, NULL, p->token->line);
        node->value = parse_dotted(p);
        node->builtin = jinja_builtin_filter(jinja_string_str(node->value));
        if (jinja_parse_at(p, "(")) {
            node->args = parse_arguments(p);
        }
    }
    return node;
}

static bool at_test_argument(const jinja_parser *p) {
    switch (p->token->type) {
        case JINJA_TOKEN_STRING:
        case JINJA_TOKEN_INTEGER:
        case JINJA_TOKEN_FLOAT:
            return true;
        case JINJA_TOKEN_NAME:
            return !jinja_parse_at_name(p, "else") && !jinja_parse_at_name(p, "or") &&
                   !jinja_parse_at_name(p, "and");
        default:
            return jinja_parse_at(p, "[") || jinja_parse_at(p, "{");
    }
}

static jinja_node *parse_test(jinja_parser *p, jinja_node *node) {
    int32_t line = p->token->line;
    jinja_parse_next(p);
    bool negated = jinja_parse_take_name(p, "not");
    node = wrap(p, JINJA_TEST, node, NULL, line);
    node->value = parse_dotted(p);
    node->builtin = jinja_builtin_test(jinja_string_str(node->value));
    if (jinja_parse_at(p, "(")) {
        node->args = parse_arguments(p);
    } else if (at_test_argument(p)) {
        if (jinja_parse_at_name(p, "is")) {
            jinja_parse_fail(p, "tests can't be chained");
        }
        jinja_nodes items = {.items = NULL};
        jinja_parse_push(p, &items, parse_postfix(p, parse_primary(p, false)));
        node->args = JINJA_TAKE(p->h, 1, jinja_arguments);
        *node->args = (jinja_arguments){.items = items.items, .count = 1};
    }
    if (negated) {
        node = wrap(p, JINJA_UNARY, node, NULL, line);
        node->op = JINJA_OP_NOT;
    }
    return node;
}

static jinja_node *parse_unary(jinja_parser *p, bool with_filters) {
    int32_t line = p->token->line;
    jinja_node *node;
    bool minus = jinja_parse_at(p, "-");
    jinja_heap_enter(p->h);
    if (minus || jinja_parse_at(p, "+")) {
        jinja_parse_next(p);
        node = wrap(p, JINJA_UNARY, parse_unary(p, false), NULL, line);
        node->op = minus ? JINJA_OP_NEG : JINJA_OP_POS;
    } else {
        node = parse_primary(p, false);
    }
    jinja_heap_leave(p->h);
    node = parse_postfix(p, node);
    while (with_filters) {
        if (jinja_parse_at(p, "|")) {
            node = jinja_expr_filters(p, node, false);
        } else if (jinja_parse_at_name(p, "is")) {
            node = parse_test(p, node);
        } else if (jinja_parse_at(p, "(")) {
            node = parse_call(p, node);
        } else {
            break;
        }
    }
    return node;
}
