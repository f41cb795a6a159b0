/* kubepods_test.c -- objects as the API serves them, and as it never should. */
#include "server/drivers/kubepods.h"

#include <criterion/criterion.h>
#include <stdio.h>

#include "server/drivers/kubeapi.h"

static kubepods_pod read_pod(const char *text, bool expect) {
    kubepods_pod pod;
    cJSON *j = cJSON_Parse(text);
    cr_assert(j, "%s", text);
    cr_assert_eq(kubepods_read(j, &pod), expect, "%s", text);
    cJSON_Delete(j);
    return pod;
}

Test(kubepods, a_pod_that_serves) {
    kubepods_pod p = read_pod(
        "{\"metadata\":{\"name\":\"weir-decode-5d-x2\",\"annotations\":"
        "{\"controller.kubernetes.io/pod-deletion-cost\":\"-7\"}},"
        "\"status\":{\"phase\":\"Running\",\"podIP\":\"10.1.2.3\",\"conditions\":"
        "[{\"type\":\"PodScheduled\",\"status\":\"True\"},{\"type\":\"Ready\",\"status\":\"True\"}]"
        ","
        "\"containerStatuses\":[{\"restartCount\":1},{\"restartCount\":4}]}}",
        true);
    cr_assert(p.live && p.ready);
    cr_assert_str_eq(p.name, "weir-decode-5d-x2");
    cr_assert_str_eq(p.host, "10.1.2.3");
    cr_assert_eq(p.cost, -7);
    cr_assert_eq(p.restarts, 4);
    cr_assert_str_eq(p.why, "");
}

Test(kubepods, why_a_pod_is_not_ready) {
    kubepods_pod p = read_pod(
        "{\"metadata\":{\"name\":\"a\"},\"status\":{\"phase\":\"Pending\",\"conditions\":"
        "[{\"type\":\"PodScheduled\",\"status\":\"False\",\"reason\":\"Unschedulable\","
        "\"message\":\"0/3 nodes are available\"}]}}",
        true);
    cr_assert(p.live && !p.ready);
    cr_assert_str_eq(p.why, "Unschedulable: 0/3 nodes are available");
    p = read_pod(
        "{\"metadata\":{\"name\":\"a\"},\"status\":{\"containerStatuses\":[{\"state\":"
        "{\"waiting\":{\"reason\":\"ImagePullBackOff\"}}}]}}",
        true);
    cr_assert_str_eq(p.why, "ImagePullBackOff: ");
}

Test(kubepods, one_that_ends_or_has_ended_is_neither_live_nor_ready) {
    static const char *const texts[] = {
        "{\"metadata\":{\"name\":\"a\",\"deletionTimestamp\":\"2026-01-01T00:00:00Z\"},"
        "\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}",
        "{\"metadata\":{\"name\":\"a\"},\"status\":{\"phase\":\"Failed\"}}",
        "{\"metadata\":{\"name\":\"a\"},\"status\":{\"phase\":\"Succeeded\"}}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        kubepods_pod p = read_pod(texts[i], true);
        cr_assert(!p.live && !p.ready, "%s", texts[i]);
    }
}

Test(kubepods, members_of_the_wrong_type_are_as_good_as_absent) {
    static const char *const texts[] = {
        "{\"metadata\":{\"name\":\"a\"}}",
        "{\"metadata\":{\"name\":\"a\",\"annotations\":7},\"status\":[]}",
        "{\"metadata\":{\"name\":\"a\"},\"status\":{\"podIP\":{},\"phase\":3,"
        "\"conditions\":{\"type\":\"Ready\"},\"containerStatuses\":[{\"restartCount\":-1}, 5]}}",
        "{\"metadata\":{\"name\":\"a\"},\"status\":{\"podIP\":"
        "\"0000000000000000000000000000000000000000000000000000000\","
        "\"containerStatuses\":[{\"restartCount\":1e300}]}}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        kubepods_pod p = read_pod(texts[i], true);
        cr_assert(p.live && !p.ready && p.restarts == 0 && p.cost == 0 && !p.host[0], "%s",
                  texts[i]);
    }
}

Test(kubepods, a_name_that_would_leave_its_place_in_a_path_is_no_name) {
    static const char *const names[] = {
        "",
        "../secrets/x",
        "a/b",
        "a?b",
        "A",
        ".",
        "0123456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[256];
        (void)snprintf(text, sizeof text, "{\"metadata\":{\"name\":\"%s\"}}", names[i]);
        (void)read_pod(text, false);
    }
    (void)read_pod("{\"metadata\":{\"name\":null}}", false);
    (void)read_pod("[]", false);
}

Test(kubepods, a_scale_needs_a_version_and_a_selector) {
    static const struct {
        const char *text;
        status expect;
    } rows[] = {
        {"{\"metadata\":{\"resourceVersion\":\"12\"},\"spec\":{\"replicas\":3},"
         "\"status\":{\"selector\":\"app=a\"}}",
         STATUS_OK},
        {"{\"spec\":{\"replicas\":3},\"status\":{\"selector\":\"app=a\"}}", STATUS_CORRUPT},
        {"{\"metadata\":{\"resourceVersion\":\"12\"},\"spec\":{\"replicas\":3}}", STATUS_CORRUPT},
        {"{\"metadata\":{\"resourceVersion\":\"12\"},\"spec\":{\"replicas\":-3},"
         "\"status\":{\"selector\":\"app=a\"}}",
         STATUS_INVALID},
        {"{\"metadata\":{\"resourceVersion\":\"12\"},\"spec\":{\"replicas\":\"3\"},"
         "\"status\":{\"selector\":\"app=a\"}}",
         STATUS_INVALID}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cJSON *j = cJSON_Parse(rows[i].text);
        kubepods_scale scale;
        diag d;
        cr_assert_eq(kubepods_read_scale(j, &scale, &d), rows[i].expect, "%s", rows[i].text);
        if (rows[i].expect == STATUS_OK) {
            cr_assert_eq(scale.replicas, 3);
            cr_assert_str_eq(scale.version, "12");
            cr_assert_str_eq(scale.selector, "app=a");
        }
        cJSON_Delete(j);
    }
}

Test(kubepods, fences_and_targets) {
    cJSON *j = cJSON_Parse(
        "{\"metadata\":{\"annotations\":{\"weir/fence\":\"41\"}},\"spec\":"
        "{\"scaleTargetRef\":{\"kind\":\"Deployment\",\"name\":\"d\"}}}");
    cr_assert_eq(kubepods_fence(j), 41);
    cr_assert(kubepods_is_target(j, "Deployment", "d"));
    cr_assert_not(kubepods_is_target(j, "StatefulSet", "d"));
    cr_assert_not(kubepods_is_target(j, "Deployment", "e"));
    cJSON_Delete(j);
    j = cJSON_Parse("{\"metadata\":{\"annotations\":{\"weir/fence\":\"-1\"}}}");
    cr_assert_eq(kubepods_fence(j), 0);
    cr_assert_not(kubepods_is_target(j, "Deployment", ""));
    cJSON_Delete(j);
}

Test(kubeapi, a_selector_is_escaped_or_refused) {
    char out[32];
    cr_assert(kubeapi_escape("a=b,c in (d)", out, sizeof out));
    cr_assert_str_eq(out, "a%3Db%2Cc%20in%20%28d%29");
    cr_assert_not(kubeapi_escape("a=b,c in (d), e=f", out, sizeof out));
}
