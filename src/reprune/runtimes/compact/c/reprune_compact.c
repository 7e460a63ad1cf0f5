/* See reprune_compact.h. The contexts and the arithmetic are those of reprune.runtimes.compact.walk. */
#include "reprune_model.h"
#include "reprune_compact.h"

/* What the file does not hold reads as 0 and leaves r->header beyond its end: see overrun(). */
static uint32_t varint(reprune_reader *r) {
    uint32_t number = 0, shift = 0;
    while (r->header < r->size && shift <= 28) {
        uint8_t byte = r->data[r->header++];
        number |= (uint32_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return number;
        shift += 7;
    }
    r->header = r->size + 1;
    return 0;
}

static uint8_t next_byte(reprune_reader *r) {
    if (r->header < r->size) return r->data[r->header++];
    r->header = r->size + 1;
    return 0;
}

static int overrun(const reprune_reader *r) { return r->header > r->size; }

/* One line of the header; the tensor's facts are kept in *t. */
static int read_entry(reprune_reader *r, reprune_tensor *t) {
    uint32_t name = varint(r), dimensions, last = 1, place, root;
    uint8_t kind, density;
    if (overrun(r) || name > r->size - r->header) return REPRUNE_E_FORMAT;
    r->header += name;
    dimensions = varint(r);
    if (dimensions > REPRUNE_MAX_DIMENSIONS) return REPRUNE_E_SIZE;
    t->rows = t->columns = 1;
    for (place = 0; place < dimensions; place++) {
        last = varint(r);
        if (place == 0) t->rows = last;
        else if (last != 0 && t->columns > REPRUNE_MAX_COLUMNS / last) return REPRUNE_E_SIZE;
        else t->columns *= last;
    }
    t->width = 0;
    if (dimensions > 2) t->width = (uint16_t)last;
    else {
        for (root = 0; (root + 1) * (root + 1) <= t->columns; root++) {}
        if (root * root == t->columns && root >= 4) t->width = (uint16_t)root;
    }
    kind = next_byte(r);
    density = next_byte(r);
    t->values = next_byte(r);
    if (t->rows > REPRUNE_MAX_ROWS || t->columns > REPRUNE_MAX_COLUMNS ||
        t->values > REPRUNE_MAX_VALUES)
        return REPRUNE_E_SIZE;
    t->levels[0] = 0;
    if (kind == 0) {
        t->exponent = (int8_t)next_byte(r);
        for (place = 1; place <= t->values; place++) t->levels[place] = (int8_t)next_byte(r);
    } else if (kind == 1) {
        int16_t multiple = next_byte(r), half = (int16_t)(t->values / 2);
        t->exponent = (int8_t)next_byte(r);
        for (place = 1; place <= t->values; place++) {
            int16_t step = (int16_t)((int16_t)place - 1 - half);
            t->levels[place] = (int16_t)(multiple * (step < 0 ? step : step + 1));
        }
    } else {
        return REPRUNE_E_FORMAT;
    }
    for (t->depth = 0; t->values > (1u << t->depth); t->depth++) {}
    if (overrun(r)) return REPRUNE_E_FORMAT;
    r->row = density; /* start() turns it into a probability */
    return 0;
}

uint32_t reprune_checksum(const uint8_t *data, uint32_t size) {
    uint32_t crc = 0xFFFFFFFFu, place;
    int bit;
    for (place = 0; place < size; place++) {
        crc ^= data[place];
        for (bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

int reprune_open(reprune_reader *r, const uint8_t *data, uint32_t size) {
    uint32_t place, first, stored = 0;
    int error, byte;
    if (size < 9 || data[0] != 'R' || data[1] != 'P' || data[2] != 'C' || data[3] != 2)
        return REPRUNE_E_FORMAT;
    for (byte = 3; byte >= 0; byte--) stored = stored << 8 | data[size - 4 + (uint32_t)byte];
    if (reprune_checksum(data, size - 4) != stored) return REPRUNE_E_CHECKSUM;
    r->data = data;
    r->size = size - 4;
    r->header = 4;
    r->tensors = varint(r);
    first = r->header;
    for (place = 0; place < r->tensors; place++)
        if ((error = read_entry(r, &r->tensor)) != 0) return error;
    r->coded = r->header;
    r->header = first;
    r->low = r->code = 0;
    r->high = 0xFFFFFFFFu;
    for (byte = 0; byte < 4; byte++)
        r->code = r->code << 8 | (r->coded < r->size ? r->data[r->coded++] : 0);
    r->row = r->live_count = r->fed_count = 0;
    r->tensor.rows = r->tensor.columns = 0;
    return 0;
}

static uint8_t decode_bit(reprune_reader *r, reprune_context *context) {
    uint32_t width = r->high - r->low, one = context->one, share;
    uint32_t middle = r->low + (width >> 16) * one + (((width & 0xFFFF) * one) >> 16);
    uint8_t bit = r->code <= middle;
    share = 65536u / (context->seen + 2u);
    if (bit) {
        r->high = middle;
        one += (65535u - one) * share >> 16;
    } else {
        r->low = middle + 1;
        one -= one * share >> 16;
    }
    context->one = (uint16_t)(one < 32 ? 32 : one > 65504 ? 65504 : one);
    if (context->seen < 126) context->seen++;
    while (((r->low ^ r->high) & 0xFF000000u) == 0) {
        r->low <<= 8;
        r->high = r->high << 8 | 0xFF;
        r->code = r->code << 8 | (r->coded < r->size ? r->data[r->coded++] : 0);
    }
    return bit;
}

static void start(reprune_context *contexts, uint32_t count, uint32_t one) {
    while (count--) {
        contexts[count].one = (uint16_t)one;
        contexts[count].seen = 0;
    }
}

static uint8_t get(const uint8_t *bits, uint32_t place) { return bits[place >> 3] >> (place & 7) & 1; }

static void put(uint8_t *bits, uint32_t place, uint8_t bit) {
    uint8_t mask = (uint8_t)(1u << (place & 7));
    bits[place >> 3] = (uint8_t)(bit ? bits[place >> 3] | mask : bits[place >> 3] & ~mask);
}

static uint8_t decode_flag(reprune_reader *r, const uint8_t *flags, uint32_t place, uint32_t hint,
                           uint32_t width) {
    uint32_t before = place ? get(flags, place - 1) : 1;
    uint32_t above = width > 0 && place >= width ? get(flags, place - width) : before;
    return decode_bit(r, &r->flags[(hint * 2 + before) * 2 + above]);
}

int reprune_next_tensor(reprune_reader *r) {
    static const uint16_t eighths[8] = {65535, 60097, 55109, 50535, 46341, 42495, 38968, 35734};
    reprune_tensor *t = &r->tensor;
    uint32_t place, one, hinted, density;
    int error;
    if (r->tensors == 0 || r->row != t->rows) return REPRUNE_E_ORDER;
    if (t->columns > 1) {
        r->fed_count = r->live_count;
        for (place = 0; place < sizeof r->fed; place++) r->fed[place] = r->live[place];
    }
    r->tensors--;
    if ((error = read_entry(r, t)) != 0) return error;
    density = r->row;
    one = eighths[density % 8] >> (density / 8);
    if (density % 8 == 0) one = 65536u >> (density / 8);
    start(r->flags, 24, 32768);
    start(r->cells, 12, one < 32 ? 32 : one > 65504 ? 65504 : one);
    start(r->nodes, 3 * REPRUNE_NODES, 32768);
    hinted = r->live_count == t->rows;
    for (place = 0; place < t->rows; place++) {
        uint32_t hint = hinted ? get(r->live, place) : 2;
        put(r->live, place, decode_flag(r, r->live, place, hint, 0));
    }
    r->live_count = t->rows;
    hinted = r->fed_count && t->columns % r->fed_count == 0;
    r->final = t->columns;
    for (place = 0; place < t->columns; place++) {
        uint32_t hint = hinted ? get(r->fed, place / (t->columns / r->fed_count)) : 2;
        uint8_t live = decode_flag(r, r->columns, place, 3 + hint, t->width);
        put(r->columns, place, live);
        if (live) r->final = place;
        r->counts[place] = 0;
    }
    r->row = r->done = 0;
    return 0;
}

static uint32_t share(uint32_t count, uint32_t of) {
    uint32_t part = (count * 64 + 64) / (of + 16), bits = 0;
    if (count == 0) return 0;
    while (part && bits < 4) {
        part >>= 1;
        bits++;
    }
    return bits ? bits - 1 : 0;
}

static uint8_t decode_value(reprune_reader *r, uint8_t near) {
    uint8_t depth = r->tensor.depth, left = depth;
    uint32_t side = near ? 1 + (((uint32_t)(near - 1) << 1) >> depth) : 0, node = 1;
    while (left--) node = node * 2 + decode_bit(r, &r->nodes[side * REPRUNE_NODES + node]);
    node = node - (1u << depth) + 1;
    return (uint8_t)(node > r->tensor.values ? r->tensor.values : node); /* no file of ours exceeds it */
}

int reprune_next_row(reprune_reader *r) {
    const reprune_tensor *t = &r->tensor;
    uint32_t place, held = 0, w = t->width;
    if (r->row >= t->rows) return REPRUNE_E_ORDER;
    for (place = 0; place < t->columns; place++) r->codes[place] = 0;
    if (!get(r->live, r->row++) || r->final == t->columns) return 0;
    for (place = 0; place <= r->final; place++) {
        uint32_t column = w ? place % w : place, near;
        const uint8_t *c = &r->codes[place];
        uint8_t left, up, second, above = w > 0 && place >= w;
        if (!get(r->columns, place)) continue;
        left = column > 0 ? c[-1] : 0;
        up = above ? *(c - w) : 0;
        second = column > 1 ? c[-2] : 0;
        near = (left > 0) + (up > 0) + (above && column > 0 && *(c - w - 1) > 0) +
               (above && column + 1 < w && *(c - w + 1) > 0);
        near = near > 2 ? 2 : near;
        if ((place == r->final && held == 0) ||
            decode_bit(r, &r->cells[near * 4 + share(r->counts[place], r->done)])) {
            r->codes[place] = decode_value(r, left ? left : up ? up : second);
            r->counts[place]++;
            held++;
        }
    }
    r->done++;
    return 0;
}

static int32_t clamped(int64_t value) {
    return value > INT32_MAX ? INT32_MAX : value < INT32_MIN ? INT32_MIN : (int32_t)value;
}

/* acc * 2^exponent, rounded down; what int32_t does not hold becomes the largest or the smallest it does. */
static int32_t scaled(int64_t acc, int exponent) {
    if (exponent < 0) return exponent < -62 ? (acc < 0 ? -1 : 0) : clamped(acc >> -exponent);
    acc = clamped(acc);
    if (exponent > 31) exponent = 31;
    return clamped(acc * ((int64_t)1 << exponent));
}

int reprune_run_mlp(reprune_reader *r, uint32_t inputs, int32_t *values, int32_t *spare,
                    uint32_t *outputs) {
    const reprune_tensor *t = &r->tensor;
    uint32_t row, place;
    int error;
    while (r->tensors) {
        if ((error = reprune_next_tensor(r)) != 0) return error;
        if (t->columns != inputs) return REPRUNE_E_SHAPE;
        for (row = 0; row < t->rows; row++) {
            int64_t acc = 0;
            if ((error = reprune_next_row(r)) != 0) return error;
            for (place = 0; place < inputs; place++)
                acc += (int64_t)t->levels[r->codes[place]] * values[place];
            spare[row] = scaled(acc, t->exponent);
        }
        inputs = t->rows;
        if ((error = reprune_next_tensor(r)) != 0) return error;
        if (t->columns != 1 || t->rows != inputs) return REPRUNE_E_SHAPE;
        for (row = 0; row < inputs; row++) {
            if ((error = reprune_next_row(r)) != 0) return error;
            values[row] = clamped((int64_t)spare[row] +
                                  scaled(t->levels[r->codes[0]], t->exponent + REPRUNE_POINT));
            if (r->tensors && values[row] < 0) values[row] = 0;
        }
    }
    *outputs = inputs;
    return 0;
}
