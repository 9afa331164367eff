Feature: Artifacts
  What agents make is kept under the digest of its content, with tags and where it came from.

  Background:
    Given the workstation "shared"

  Scenario: A plan, and the diff that came from it
    When somebody sends POST "/v1/artifacts"
      """
      {"kind": "plan", "content": "first the tests", "tags": ["bdd", "monday"]}
      """
    Then the answer is 201
    And the answer says
      | kind   | plan                                                                    |
      | tags   | ["bdd", "monday"]                                                       |
      | digest | sha256:0529f437915deaee3899fa19a8b5a3d86278124f95b8ab24ac00e8ad92cb1c93 |
    And "id" of the answer is kept as "plan"
    When somebody sends POST "/v1/artifacts"
      """
      {"kind": "plan", "content": "first the tests", "tags": ["monday", "bdd"]}
      """
    Then the answer says
      | id | {plan} |
    When somebody sends POST "/v1/artifacts"
      """
      {"kind": "diff", "content": "+ tests", "tags": ["bdd"], "parent": "{plan}"}
      """
    Then the answer is 201
    And "id" of the answer is kept as "diff"
    When somebody asks GET "/v1/artifacts/{diff}"
    Then the answer is 200
    And the answer says
      | content | + tests |
      | parent  | {plan}  |
    When somebody asks GET "/v1/artifacts?tag=monday"
    Then the answer is 200
    And the answer says
      | artifacts.0.id | {plan} |
    When somebody asks GET "/v1/artifacts/nothing-like-it"
    Then the answer is 404 INVALID_PARAMS
