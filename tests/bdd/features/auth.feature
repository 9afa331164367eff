@slow
Feature: Who may ask
  With a token configured everybody presents it; without it, on every route but health, nothing.

  Background:
    Given the workstation "guarded"

  Scenario Outline: Without the token nothing is said
    When a stranger asks <method> "<path>" with <header>
    Then the answer is 401 <code>
    And the answer says
      | auth_code | <number> |
    And the headers say
      | WWW-Authenticate | Bearer |

    Examples:
      | method | path                | header           | code          | number |
      | GET    | /v1/capabilities    | no token         | MISSING_TOKEN | 40101  |
      | GET    | /v1/capabilities    | another token    | BAD_TOKEN     | 40102  |
      | GET    | /v1/tasks           | no token         | MISSING_TOKEN | 40101  |
      | POST   | /v1/tasks           | another token    | BAD_TOKEN     | 40102  |
      | POST   | /v1/workers/register | no token        | MISSING_TOKEN | 40101  |
      | GET    | /metrics            | no token         | MISSING_TOKEN | 40101  |
      | GET    | /v1/pools           | the user's name  | MISSING_TOKEN | 40101  |

  Scenario Outline: A supervisor needs no token
    When a stranger asks GET "<path>" with no token
    Then the answer is 200

    Examples:
      | path     |
      | /health  |
      | /healthz |
      | /readyz  |

  Scenario: Who presents the token is served, and the log names it by its fingerprint only
    When Ada submits "secret" to pool "both"
      | max_tokens | 2             |
      | prompt     | canary in jail |
    Then the answer is 202
    And "secret" ends with length after 2 tokens
    And the log names the fingerprint of the token for "secret"
    And nothing that the daemons say holds "canary in jail"
    And nothing that the daemons say holds the token
