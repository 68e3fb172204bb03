"""NetworkPolicies deny everything by default and allow exactly the connections between roles."""

import pytest
from support.chart_objects import Chart, Object, environment, find, of_kind, pod_specs

pytestmark = pytest.mark.processes

ROLES = ("router", "attention", "expert", "redis")
COMPONENT = "app.kubernetes.io/component"
# (from, to, port): routers connect to expert workers because the placement leader is a router, and ask each other who
# they are. Attention workers fetch pages from each other.
CONNECTIONS = {
    ("router", "attention", 50051),
    ("router", "expert", 50051),
    ("router", "router", 50051),
    ("attention", "attention", 50051),
    ("attention", "expert", 50051),
    ("attention", "expert", 50053),
    ("router", "redis", 6379),
    ("attention", "redis", 6379),
    ("expert", "redis", 6379),
}


def _peers(rules: list[Object], direction: str) -> set[tuple[str, int]]:
    found = set()
    for rule in rules:
        for peer in rule.get(direction, []):
            component = peer.get("podSelector", {}).get("matchLabels", {}).get(COMPONENT)
            found |= {(component, port["port"]) for port in rule["ports"] if component}
    return found


def _policy(objects: list[Object], role: str) -> Object:
    spec: Object = find(objects, "NetworkPolicy", f"caracal-{role}")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["podSelector"]["matchLabels"][COMPONENT] == role
    return spec


def test_only_the_connections_between_roles_are_allowed(chart: Chart) -> None:
    objects = chart.render()
    egress = {(role, *peer) for role in ROLES for peer in _peers(_policy(objects, role)["egress"], "to")}
    ingress = {(peer, role, port) for role in ROLES for peer, port in _peers(_policy(objects, role)["ingress"], "from")}
    assert egress == CONNECTIONS
    assert ingress == CONNECTIONS


def test_default_deny_applies_to_every_pod_in_both_directions(chart: Chart) -> None:
    objects = chart.render()
    spec = find(objects, "NetworkPolicy", "caracal-default-deny")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    assert [{port["port"] for port in rule["ports"]} for rule in spec["egress"]] == [{53}]
    for thing in of_kind(objects, "Deployment", "StatefulSet"):
        labels = thing["spec"]["template"]["metadata"]["labels"]
        assert spec["podSelector"]["matchLabels"].items() <= labels.items()


def test_only_prometheus_reaches_workers_from_another_namespace(chart: Chart) -> None:
    objects = chart.render()
    for role in ("attention", "expert", "redis"):
        for rule in _policy(objects, role)["ingress"]:
            assert rule["from"]
            outside = [peer for peer in rule["from"] if "namespaceSelector" in peer]
            assert not outside or [port["port"] for port in rule["ports"]] == [9090]


def test_gateway_is_open_unless_its_clients_are_given(chart: Chart) -> None:
    assert "from" not in _policy(chart.render(), "router")["ingress"][0]
    rule = _policy(chart.profile("tls"), "router")["ingress"][0]
    assert rule["from"][0] == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
    assert rule["from"][1]["podSelector"]["matchLabels"][COMPONENT] == "test", "helm test is still allowed"


def test_only_prometheus_reaches_the_admin_port_which_no_service_has(chart: Chart) -> None:
    objects = chart.render()
    rules = [rule for rule in _policy(objects, "router")["ingress"] if 8002 in [port["port"] for port in rule["ports"]]]
    assert [[port["port"] for port in rule["ports"]] for rule in rules] == [[8002]]
    assert rules[0]["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    ports = [port for thing in of_kind(objects, "Service") for port in thing["spec"]["ports"]]
    assert ports
    assert not [port for port in ports if port.get("targetPort") in ("admin", 8002) or port["port"] == 8002]


def test_egress_to_external_redis_is_limited_to_its_networks(chart: Chart) -> None:
    objects = chart.profile("external-redis")
    for role in ("router", "attention", "expert"):
        rule = _policy(objects, role)["egress"][-1]
        assert rule == {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": "TCP", "port": 6380}]}
    assert not [thing for thing in objects if thing["metadata"]["name"] == "caracal-redis"]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("redis://r.example:6380/0", 6380),
        ("rediss://r.example/0", 6379),
        ("redis://user@r.example:7000", 7000),
        ("redis://[fd00::1]:6390/0", 6390),
        ("redis://[fd00::1]/0", 6379),
    ],
)
def test_the_port_of_external_redis_follows_its_url(chart: Chart, url: str, port: int) -> None:
    objects = chart.render(f"redis.enabled=false,externalRedis.url={url}")
    for role in ("router", "attention", "expert"):
        assert _policy(objects, role)["egress"][-1]["ports"] == [{"protocol": "TCP", "port": port}]


def test_sentinels_have_a_port_beside_that_of_the_redis_they_know(chart: Chart) -> None:
    url = r"externalRedis.url=redis+sentinel://a:26380\,b:26380/lead/0"
    objects = chart.render(f"redis.enabled=false,{url},externalRedis.sentinelPort=26380,externalRedis.port=6390")
    for role in ("router", "attention", "expert"):
        ports = [port["port"] for port in _policy(objects, role)["egress"][-1]["ports"]]
        assert ports == [6390, 26380]


def test_the_next_redis_is_reached_beside_the_first(chart: Chart) -> None:
    objects = chart.render("nextRedis.existingSecret=there,nextRedis.port=6390,nextRedis.cidrs={10.1.0.0/16}")
    for role in ("router", "attention", "expert"):
        first, second = _policy(objects, role)["egress"][-2:]
        assert first["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "redis"
        assert second == {"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"protocol": "TCP", "port": 6390}]}
    for name, spec in pod_specs(objects):
        given = environment(spec["containers"][0]).get("CARACAL_REDIS_NEXT_URL", {}).get("valueFrom")
        served = name.rpartition("-")[2] in ("router", "attention", "expert")
        assert given == ({"secretKeyRef": {"name": "there", "key": "url"}} if served else None), name


def test_rdma_opens_every_port_between_attention_and_experts_only(chart: Chart) -> None:
    objects = chart.render("rdma.enabled=true")
    open_rules = {role: [rule for rule in _policy(objects, role)["egress"] if "ports" not in rule] for role in ROLES}
    assert {role for role, rules in open_rules.items() if rules} == {"attention", "expert"}
    for rule in (*open_rules["attention"], *open_rules["expert"]):
        assert rule["to"][0]["podSelector"]["matchLabels"][COMPONENT] in ("attention", "expert")


@pytest.mark.parametrize(("value", "opens"), [("link.openPorts=true", True), ("link.openPorts=false", False)])
def test_p2p_groups_open_every_port_between_attention_and_experts_unless_disabled(
    chart: Chart, value: str, opens: bool
) -> None:
    objects = chart.render("link.kind=nccl,link.allowPlainP2p=true", value)
    for role, other in (("attention", "expert"), ("expert", "attention")):
        for direction, ways in (("to", "egress"), ("from", "ingress")):
            rules = [rule for rule in _policy(objects, role)[ways] if "ports" not in rule]
            peers = [peer["podSelector"]["matchLabels"][COMPONENT] for rule in rules for peer in rule[direction]]
            assert peers == ([other] if opens else [])


@pytest.mark.parametrize(("kind", "opens"), [("native", True), ("", True), ("grpc", False)])
def test_native_sessions_open_their_port_from_attention_to_experts(chart: Chart, kind: str, opens: bool) -> None:
    objects = chart.render(f"link.kind={kind}")
    for role, ways, direction, other in (
        ("attention", "egress", "to", "expert"),
        ("expert", "ingress", "from", "attention"),
    ):
        ports = [
            entry["port"]
            for rule in _policy(objects, role)[ways]
            for entry in rule.get("ports", ())
            if [peer.get("podSelector", {}).get("matchLabels", {}).get(COMPONENT) for peer in rule[direction]]
            == [other]
        ]
        assert (50053 in ports) is opens
    assert all(
        50053 not in [entry["port"] for entry in rule.get("ports", ())] for rule in _policy(objects, "router")["egress"]
    )


def test_policies_can_be_switched_off(chart: Chart) -> None:
    assert not of_kind(chart.render("networkPolicy.enabled=false"), "NetworkPolicy")
