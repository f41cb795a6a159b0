/* jinja_json.h -- the tojson and from_json filters' work.
 *
 * Purpose    json.dumps and json.loads, as Python's json module has them.
 * Ownership  None.
 * Threads    See jinja_value.h.
 * Limits     The heap's steps, bytes and depth.
 */
#ifndef MODELS_TEXT_JINJA_JSON_H
#define MODELS_TEXT_JINJA_JSON_H

#include "models/text/jinja_string.h"

typedef struct {
    bool ensure_ascii;
    bool sort_keys;
    bool indented;
    str indent; /* of one level, when indented */
    str item_separator, key_separator;
} jinja_json_style;

void jinja_json_dump(jinja_builder *b, jinja_value v, const jinja_json_style *style);
jinja_value jinja_json_load(jinja_heap *h, str text);

#endif
