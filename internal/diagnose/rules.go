package diagnose

// Rules lists every cause fathom can name, from the bottom layer up: where two
// findings explain each other, the one that stands first wins. A rule that is
// not on this page does not exist: TestEveryRuleFileIsListed fails.
var Rules = []Rule{
	ruleLinkFlapping,
	ruleLinkAdminDown,
	ruleLinkDown,
	ruleLinkSpeedDegraded,
	ruleLinkErrors,
	ruleLinkSaturated,
	ruleLinkRxDrops,
	ruleLinkQdiscDrops,
	ruleNeighbourTableFull,
	ruleConntrackFull,
	ruleNoAddress,
	ruleGatewayConflict,
	ruleDuplicateIP,
	ruleLocalDrop,
	ruleWrongRoute,
	ruleGatewayUnreachable,
	ruleNeighbourFailed,
	ruleLinkMTUMismatch,
	ruleNoRoute,
	ruleRoutingLoop,
	ruleHostDown,
	ruleV6Broken,
	ruleFiltered,
	ruleBlackholeHop,
	rulePathLoss,
	rulePathJitter,
	ruleMTUBlackhole,
	ruleLatencyStep,
	rulePortsExhausted,
	ruleListenOverflow,
	ruleCloseWaitLeak,
	ruleRcvbufOverflow,
	ruleNoPort,
	ruleTCPRefused,
	ruleTCPFiltered,
	ruleSYNLoss,
	ruleTCPBlocked,
	ruleFirstResolverDead,
	ruleResolverDown,
	ruleResolverSlow,
	ruleResolverLies,
	ruleResolverServfail,
	ruleNXDomain,
	ruleNoData,
	ruleTLSExpired,
	ruleTLSNotYetValid,
	ruleTLSNameMismatch,
	ruleTLSUntrusted,
	ruleTLSExpiringSoon,
	ruleTLSHandshakeFailed,
	ruleTLSHandshakeSlow,
	ruleRedirectLoop,
	ruleRedirectBroken,
	ruleServerError,
	ruleServerSlow,
	ruleTransferSlow,
	ruleProtocolError,
	ruleH3Blocked,
}

// RuleByID finds a rule, nil when there is none.
func RuleByID(id string) *Rule {
	for i := range Rules {
		if Rules[i].ID == id {
			return &Rules[i]
		}
	}
	return nil
}
